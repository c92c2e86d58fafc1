"""The SFT loop: learns, logs, saves, resumes exactly."""

import json
from dataclasses import replace

import pytest
import torch

from tests.training.plain_checkpoint import plain_checkpoint
from tests.training.sft_cases import batch_of, gradients, trainee_of
from umer1.embedder import Embedder
from umer1.training import loop, sft
from umer1.training.loading import group_pairs
from umer1.training.start import open_pairs, start


def _weights(path):
    return Embedder.load(path, device="cpu").model.state_dict()


def test_loss_falls_and_the_result_is_a_checkpoint_that_embeds(sft_config, records):
    config = replace(sft_config, steps=25, log_every=5)
    config.optimizer.learning_rate = 3e-3
    path = sft.run(config, progress=False)
    rows = [
        json.loads(line) for line in (path.parent / "sft_metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25]
    assert rows[-1]["total"] < 0.7 * rows[0]["total"]
    assert {"gen", "disc", "ce_query", "ce_target", "learning_rate", "pairs_per_second"} <= set(
        rows[0]
    )
    out = Embedder.load(path, device="cpu").encode(
        [{"text": "What is number 0?", "image": records / "0.png"}, "cat"],
        max_new_tokens=4,
        progress=False,
    )
    assert out.disc.shape == out.gen.shape == (2, 32)
    assert list((path.parent / "sft_log").rglob("events*")), "no TensorBoard log"


def test_a_killed_run_resumed_equals_one_that_was_not_killed(sft_config, tmp_path, monkeypatch):
    whole = replace(sft_config, steps=6, save_every=2, output=str(tmp_path / "whole"))
    wanted = _weights(sft.run(whole, progress=False))
    killed = replace(whole, output=str(tmp_path / "killed"))

    class Killed(BaseException):
        pass

    log = loop.Run.log

    def die(self, numbers):
        log(self, numbers)
        if self.step == 5:
            raise Killed

    monkeypatch.setattr(loop.Run, "log", die)
    with pytest.raises(Killed):
        sft.run(killed, progress=False)
    monkeypatch.setattr(loop.Run, "log", log)
    got = _weights(sft.run(killed, progress=False))
    for name, weight in wanted.items():
        assert torch.equal(weight, got[name]), name
    read = lambda folder: [  # noqa: E731
        (row["step"], row["total"])
        for row in map(json.loads, (tmp_path / folder / "sft_metrics.jsonl").open())
    ]
    assert read("killed") == read("whole")


def test_a_half_written_checkpoint_is_never_resumed_from(sft_config, tmp_path):
    config = replace(sft_config, steps=4, save_every=2, output=str(tmp_path / "run"))
    wanted = _weights(sft.run(config, progress=False))
    partial = tmp_path / "run" / "checkpoints/sft/.step-00000003.partial"
    partial.mkdir()
    (partial / "run.json").write_text('{"stage": "sft", "step": 3}')
    got = _weights(sft.run(config, progress=False))
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_accumulation_averages_the_micro_batches(sft_config):
    config = replace(sft_config, steps=1, batch_size=4, group_size=4, gradient_accumulation=2)
    path = sft.run(config, progress=False)
    row = json.loads((path.parent / "sft_metrics.jsonl").read_text())
    pairs = open_pairs(config, "sft")
    model, processor = start(config, pairs)
    sft.prepare_model(model, config, processor)
    trainee, wanted = trainee_of(model), sft.sft_objective(config, processor)
    encode = sft.SFTEncoder(processor, config)
    losses, averages = [], {}
    for batch in group_pairs(pairs, config).epoch(0)[:2]:
        encoded = [encode(pairs[number], pairs.where(number)) for number in batch]
        numbers, found = gradients(trainee, batch_of(encoded), wanted)
        losses.append(float(numbers.total))
        for name, gradient in found.items():
            averages[name] = averages.get(name, 0.0) + gradient / 2
    norm = torch.stack([each.norm() for each in averages.values()]).norm()
    assert row["step"] == 1 and losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert row["total"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_frozen_vision_does_not_move_but_its_merger_does(sft_config, tmp_path):
    config = replace(sft_config, freeze_vision=True, steps=1, output=str(tmp_path / "one"))
    one = _weights(sft.run(config, progress=False))
    three = _weights(
        sft.run(replace(config, steps=3, output=str(tmp_path / "three")), progress=False)
    )
    for name in one:
        moved = not torch.equal(one[name], three[name])
        tower = name.startswith("vision.") and not name.startswith("vision.merger.")
        assert moved != tower, name


@pytest.mark.parametrize("change, message", [
    (dict(data=""), "data: wants"), (dict(data="missing.json"), "data: no such file"),
    (dict(output=""), "output: wants"), (dict(tiny={}), "model: wants"), (dict(batch_size=999), "batch_size"),
])  # fmt: skip
def test_bad_settings_name_themselves_before_any_training(sft_config, change, message):
    with pytest.raises(ValueError, match=message):
        sft.run(replace(sft_config, **change), progress=False)


@pytest.mark.parametrize("schedule, at", [("cosine", (0.5, 1.0, 0.5)), ("linear", (0.5, 1.0, 0.5)),
                                          ("constant", (0.5, 1.0, 1.0))])  # fmt: skip
def test_learning_rate_schedule(schedule, at):
    settings = loop.OptimizerConfig(learning_rate=1.0, warmup_ratio=0.2, schedule=schedule)
    rates = [loop.learning_rate(settings, fraction) for fraction in (0.1, 0.2, 0.6)]
    assert rates == pytest.approx(at)
    with pytest.raises(ValueError, match="optimizer.schedule"):
        loop.learning_rate(loop.OptimizerConfig(schedule="zigzag"), 0.5)


def test_a_plain_qwen2_vl_checkpoint_gets_the_tokens_and_the_sft_limits(sft_config, tmp_path):
    from umer1.processor import SFT_LIMITS

    plain = plain_checkpoint(tmp_path / "plain")
    settings = replace(sft_config, tiny={}, model=str(tmp_path / "plain"))
    started, processor = start(settings, open_pairs(settings, "sft"))
    assert (processor.gen_id, processor.disc_id) == (len(plain), len(plain) + 1)
    source = plain.convert_tokens_to_ids("<|object_ref_end|>")
    weight = started.decoder.embed.weight
    assert torch.equal(weight[processor.gen_id], weight[source])
    assert processor.limits == SFT_LIMITS


def test_sources_choose_pairs_and_unknown_ones_are_named(sft_config):
    pairs = open_pairs(replace(sft_config, sources="texts,videos"), "sft")
    assert {pair.dataset for pair in pairs} == {"texts", "videos"} and len(pairs) == 16
    with pytest.raises(ValueError, match="sources: no pairs of 'sounds'; the data has pictures"):
        open_pairs(replace(sft_config, sources="sounds"), "sft")
