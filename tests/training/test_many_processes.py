"""Two processes, spread in every way there is, take the steps that one process takes."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from umer1.embedder import Embedder
from umer1.training import sft
from umer1.training.settings import LoRAConfig

RUNNER = Path(__file__).with_name("kinds_of_training.py")


def _settings(config, **more):
    settings = asdict(config)
    settings["optimizer"]["betas"] = list(settings["optimizer"]["betas"])
    return {**settings, **more}


def _launch(tmp_path, runs, timeout=900):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               str(RUNNER), str(path)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    return run.stdout


def _zero(tmp_path, stage):
    path = tmp_path / f"zero{stage}.json"
    zero = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True, "sub_group_size": 1e9,
            "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto"}  # fmt: skip
    path.write_text(
        json.dumps(
            {
                "bf16": {"enabled": "auto"},
                "fp16": {"enabled": "auto"},
                "train_micro_batch_size_per_gpu": "auto",
                "train_batch_size": "auto",
                "gradient_accumulation_steps": "auto",
                "zero_optimization": zero,
            }
        )
    )
    return str(path)


def _weights(folder):
    return Embedder.load(Path(folder) / "model", device="cpu").model.state_dict()


def _losses(folder):
    return [
        (row["step"], row.get("gen", 0.0), row["disc"])
        for row in map(json.loads, (Path(folder) / "sft_metrics.jsonl").open())
    ]


def _assert_equal(got, wanted, tolerance=1e-6):
    first, second = _weights(got), _weights(wanted)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0, msg=name)
    for (step, gen, disc), (wanted_step, wanted_gen, wanted_disc) in zip(
        _losses(got), _losses(wanted), strict=True
    ):
        assert step == wanted_step
        assert gen == pytest.approx(wanted_gen, rel=1e-4)
        assert disc == pytest.approx(wanted_disc, rel=1e-4)


def _kinds(tmp_path):
    return {"ddp": {}, "zero2": {"deepspeed": _zero(tmp_path, 2)}, "zero3": {"deepspeed": _zero(tmp_path, 3)},
            "fsdp": {"fsdp": True}}  # fmt: skip


def _assert_every_kind_equals_one(base, folder):
    """Trains in this process and by every kind on two, each into its own folder; the kinds."""
    sft.run(replace(base, output=str(folder / "one")), progress=False)
    kinds = _kinds(folder)
    settings = [
        _settings(replace(base, output=str(folder / kind)), **how) for kind, how in kinds.items()
    ]
    _launch(folder, settings)
    for kind in kinds:
        _assert_equal(folder / kind, folder / "one")
    return kinds


@pytest.mark.slow  # starts torchrun; eight trainings
@pytest.mark.parametrize("tied", [True, False])
def test_every_kind_equals_one_process(sft_config, tmp_path, tied):
    """Two micro-batches a step; tied head (2B) or its own (7B); the vision tower frozen; texts without pictures."""
    base = replace(
        sft_config,
        batch_size=4,
        gradient_accumulation=2,
        steps=3,
        freeze_vision=True,
        tiny={**sft_config.tiny, "tie_word_embeddings": tied},
    )
    for kind in _assert_every_kind_equals_one(base, tmp_path):
        loaded = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / kind / "model")
        head = _weights(tmp_path / kind)["decoder.embed.weight" if tied else "head.weight"]
        assert torch.equal(loaded.lm_head.weight, head)


@pytest.mark.slow  # starts torchrun; five trainings
def test_every_kind_trains_the_disc_vectors_alone(sft_config, tmp_path):
    """Nobody reads the head then, nor the tower in a batch of texts."""
    base = replace(sft_config, sources="texts", batch_size=4, steps=3, generative=False,
                   tiny={**sft_config.tiny, "tie_word_embeddings": False})  # fmt: skip
    _assert_every_kind_equals_one(base, tmp_path)


@pytest.mark.slow  # starts torchrun; nine trainings
@pytest.mark.parametrize("tied", [True, False])
def test_every_kind_trains_adapters_and_the_embedding_tokens_rows(sft_config, tmp_path, tied):
    """Killed and gone on from, too."""
    base = replace(sft_config, sources="pictures,videos", steps=4, save_every=2, lora=LoRAConfig(rank=2),
                   tiny={**sft_config.tiny, "tie_word_embeddings": tied})  # fmt: skip
    base.optimizer.learning_rate = 1e-3
    sft.run(replace(base, output=str(tmp_path / "one")), progress=False)
    kinds = _kinds(tmp_path)
    runs = []
    for kind, how in kinds.items():
        config = replace(base, output=str(tmp_path / kind))
        runs += [_settings(config, die_at=3, **how), _settings(config, **how)]
    _launch(tmp_path, runs)
    for kind in kinds:
        _assert_equal(tmp_path / kind, tmp_path / "one")
        rows = [
            load_file(tmp_path / run / "adapter/adapter_model.safetensors") for run in (kind, "one")
        ]
        names = [name for name in rows[0] if name.endswith("trainable_tokens_delta")]
        assert len(names) == 2 - tied
        for name in names:
            torch.testing.assert_close(*(each[name] for each in rows), atol=1e-6, rtol=0)


@pytest.mark.slow  # starts torchrun; nine trainings
def test_every_kind_goes_on_after_a_kill(sft_config, tmp_path):
    """Within noise of the run that was not killed; DDP's and FSDP2's checkpoints also in one process."""
    base = replace(sft_config, sources="pictures,videos", steps=4, save_every=2)
    sft.run(replace(base, output=str(tmp_path / "one")), progress=False)
    runs = []
    for kind, how in _kinds(tmp_path).items():
        config = replace(base, output=str(tmp_path / kind))
        runs += [_settings(config, die_at=3, **how), _settings(config, **how)]
    runs.append(_settings(replace(base, output=str(tmp_path / "alone")), die_at=3, fsdp=True))
    stdout = _launch(tmp_path, runs)
    assert stdout.count("resuming from") == 4
    for kind in _kinds(tmp_path):
        _assert_equal(tmp_path / kind, tmp_path / "one")
    sft.run(replace(base, output=str(tmp_path / "alone")), progress=False)
    _assert_equal(tmp_path / "alone", tmp_path / "one")


@pytest.mark.slow  # starts torchrun; four trainings
def test_a_process_that_cannot_write_ends_all_of_them(sft_config, tmp_path):
    """Under ZeRO each writes its own part; the other must not wait for ever for the one that fails."""
    base = replace(sft_config, sources="pictures,videos", steps=6, save_every=2)
    runs = []
    for stage in (2, 3):
        how = {"deepspeed": _zero(tmp_path, stage), "output": str(tmp_path / f"zero{stage}")}
        runs += [_settings(base, full_disk=[4, 1, "optim_states"], **how), _settings(base, **how)]
    stdout = _launch(tmp_path, runs, timeout=300)
    for stage in (2, 3):
        told = (tmp_path / f"zero{stage}/error.txt").read_text()
        assert "sft: no checkpoint at step 4" in told
        assert "process 1: no room on the disk (No space left on device)" in told
        assert f"resuming from {tmp_path}/zero{stage}/checkpoints/sft/step-00000002" in stdout
        assert [step for step, *_ in _losses(tmp_path / f"zero{stage}")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow  # starts accelerate launch
def test_accelerate_launch_with_deepspeed_is_the_same_run(sft_config, tmp_path):
    import yaml

    config = replace(
        sft_config, sources="pictures,videos", steps=2, output=str(tmp_path / "launched")
    )
    sft.run(replace(config, output=str(tmp_path / "one")), progress=False)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(_settings(config)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "umer1.cli",
               "train", "sft", "--quiet", "--config", str(tmp_path / "run.yaml")]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    _assert_equal(tmp_path / "launched", tmp_path / "one")
