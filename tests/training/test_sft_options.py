"""All options of SFT at once, through the command's own path; what the finished model says about itself."""

import dataclasses
import json

import pytest
import torch
from accelerate.state import AcceleratorState

from umer1.embedder import Embedder
from umer1.training import sft
from umer1.training.settings import LoRAConfig


@pytest.fixture(autouse=True)
def _own_precision():
    """Accelerate keeps the first run's precision for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def with_negatives(records, tmp_path):
    """The training set with one hard negative for every record, and equal ids for some."""
    rows = json.loads((records / "sft.json").read_text())
    for number, row in enumerate(rows):
        row["neg"] = [rows[(number + 2) % len(rows)]["pos"]]
        row["pos_id"] = row["pos"]["conversations"][0]["value"]
    path = tmp_path / "negatives.json"
    path.write_text(json.dumps(rows))
    return path


def test_everything_at_once(sft_config, records, with_negatives):
    config = dataclasses.replace(
        sft_config, data=str(with_negatives), data_path=str(records), steps=2, gradient_accumulation=2,
        batch_size=4, mixed_precision="bf16", gradient_checkpointing=True, microbatch_tokens=80,
        align_weight=0.2, learn_scale=True, scale=20.0, hard_negatives=1, mask_duplicates=True,
        matryoshka={8: 0.5, 16: 0.5}, global_token_mean=True, freeze_vision=True,
        lora=LoRAConfig(rank=2, dropout=0.1),
    )  # fmt: skip
    config.optimizer.learning_rate = 1e-2
    path = sft.run(config, progress=False)
    rows = [json.loads(line) for line in (path.parent / "sft_metrics.jsonl").open()]
    assert len(rows) == 2 and all(row["align"] > 0 for row in rows)
    assert (
        rows[0]["scale"] == pytest.approx(20.0, rel=1e-3) and rows[1]["scale"] != rows[0]["scale"]
    )
    assert json.loads((path / "config.json").read_text())["matryoshka_dimensions"] == [8, 16, 32]
    model = Embedder.load(path, device="cpu").model
    assert model.config.aligned_modes
    assert model.config.matryoshka_dimensions == (8, 16, 32)
    assert all(torch.isfinite(each).all() for each in model.parameters())
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(path).matryoshka_dimensions == [8, 16, 32]


def test_dimensions_beyond_the_vectors_are_refused(sft_config):
    with pytest.raises(
        ValueError, match="matryoshka: got dimension 64, the model's vectors have 32"
    ):
        sft.run(dataclasses.replace(sft_config, matryoshka={64: 1.0}), progress=False)


def test_dume_trains_on_records_without_responses(sft_config, records, tmp_path):
    """It never looks at them: the finished model is the same whatever they say."""
    rows = json.loads((records / "sft.json").read_text())
    for row in rows:
        row["qry"]["conversations"][1]["value"] = "nothing to embed"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(rows))
    found = []
    for data in (records / "sft.json", path):
        config = dataclasses.replace(
            sft_config, data=str(data), data_path=str(records), generative=False, steps=2,
            model=str(_start(sft_config, tmp_path)), tiny={}, output=str(tmp_path / data.stem),
        )  # fmt: skip
        found.append(
            Embedder.load(sft.run(config, progress=False), device="cpu").model.state_dict()
        )
    assert all(torch.equal(found[1][name], weight) for name, weight in found[0].items())


@pytest.mark.parametrize("absent, there", [("generative", "disc"), ("discriminative", "gen")])
def test_a_loss_that_is_not_trained_is_not_reported(sft_config, capsys, absent, there):
    """A zero would be a sign of failure: of dume-2b it was, in every run."""
    gone = {
        "generative": {"gen", "gen_hit", "ce_query", "ce_target"},
        "discriminative": {"disc", "disc_hit"},
    }[absent]
    config = dataclasses.replace(
        sft_config, sources="texts", batch_size=4, steps=1, **{absent: False}
    )
    path = sft.run(config, progress=False).parent / "sft_metrics.jsonl"
    (row,) = map(json.loads, path.open())
    assert not row.keys() & (gone | {"align"}) and row.keys() > {"total", there, f"{there}_hit"}
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("sft 1/1")]
    other = "disc" if there == "gen" else "gen"
    assert f"({there} " in line and f"| hit@1 {there}" in line and f"{other} " not in line


def _start(config, tmp_path):
    """A model to begin with, made once: from scratch the tokenizer would learn from the responses."""
    once = dataclasses.replace(config, steps=1, output=str(tmp_path / "start"))
    done = tmp_path / "start" / "model"
    return done if done.exists() else sft.run(once, progress=False)
