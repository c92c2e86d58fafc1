"""Which checkpoints a run goes on from."""

import copy
from dataclasses import asdict
from pathlib import Path

import pytest

from umer1.training import resuming
from umer1.training.resuming import check_same_run
from umer1.training.settings import RLConfig, SFTConfig

FOLDER = Path("checkpoints/step-00000040")
SAVED = {
    "stage": "sft", "step": 40, "kind": "ddp", "processes": 2,
    "config": {"batch_size": 8, "log_every": 10, "steps": 100, "tiny": {}, "optimizer": {"learning_rate": 5e-5}},
    "data": {"pairs": 24, "sources": {"cats": 16, "dogs": 8}},
    "shape": {"hidden_size": 32, "vision": {"depth": 1}},
    "versions": {"torch": "2.15.0"},
}  # fmt: skip


def _with(**changes):
    now = copy.deepcopy(SAVED)
    for path, value in changes.items():
        inner = now
        *parents, leaf = path.split("__")
        for parent in parents:
            inner = inner[parent]
        inner[leaf] = value
    return now


def test_the_same_run_goes_on_without_a_word():
    assert check_same_run(SAVED, _with(), FOLDER) == []
    for free in (
        dict(log_every=1),
        dict(prefetch=8),
        dict(local_folders={"hub/set": "data"}),
        dict(fsdp=True),
    ):
        changes = {f"config__{name}": value for name, value in free.items()}
        assert check_same_run(SAVED, _with(**changes), FOLDER) == []


@pytest.mark.parametrize("change, line", [
    (dict(config__optimizer__learning_rate=1e-5), "optimizer.learning_rate has changed .*5e-05 then, 1e-05 now"),
    (dict(config__steps=200), "steps has changed since the checkpoint: 100 then, 200 now"),
    (dict(config__model="moved/base"), "model has changed since the checkpoint: '' then, 'moved/base' now"),
    (dict(config__bad_media="skip"), "bad_media has changed since the checkpoint: 'fatal' then, 'skip' now"),
    (dict(versions__torch="2.11.0"), "torch was 2.15.0, is 2.11.0: not bit for bit"),
    (dict(processes=4), "2 processes then, 4 now: the same batches"),
    (dict(kind="fsdp2"), None),
])  # fmt: skip
def test_what_may_change_is_said(change, line):
    lines = check_same_run(SAVED, _with(**change), FOLDER)
    if line is None:
        assert lines == []
    else:
        assert len(lines) == 1
        with pytest.raises(ValueError, match=line):
            raise ValueError(lines[0])


@pytest.mark.parametrize("change, message", [
    (dict(config__batch_size=16), "batch_size: 8 then, 16 now; .* cannot be continued with it"),
    (dict(config__tiny={"hidden": 48}), "tiny: "),
    (dict(config__generative=False), "generative: True then, False now"),
    (dict(config__discriminative=False), "discriminative: True then, False now"),
    (dict(config__scale=20.0), "scale: 50.0 then, 20.0 now"),
    (dict(config__mask_duplicates=True), "mask_duplicates: False then, True now"),
    (dict(config__hard_negatives=2), "hard_negatives: 0 then, 2 now"),
    (dict(config__max_length=64), "max_length: 12288 then, 64 now"),
    (dict(config__matryoshka={"64": 1.0}), "matryoshka: {} then, {'64': 1.0} now"),
    (dict(config__cross_entropy_weight=0.5), "cross_entropy_weight: 1.0 then, 0.5 now"),
    (dict(config__lora={"rank": 4}), "lora.rank: 0 then, 4 now"),
    (dict(config__media_weight=2.0), "media_weight: None then, 2.0 now"),
    (dict(data__pairs=25), "data: 24 pairs then, 25 now"),
    (dict(data__sources={"cats": 15, "dogs": 9}), "data: 16 pairs of 'cats' then, 15 now"),
    (dict(shape__vision={"depth": 2}), "model: vision.depth 1 then, 2 now"),
    (dict(kind="zero3"), "was written by ddp on 2 processes, this run is zero3 on 2"),
])  # fmt: skip
def test_what_breaks_the_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_same_run(SAVED, _with(**change), FOLDER)


def test_a_setting_that_the_checkpoint_does_not_know_was_as_by_default():
    assert "discriminative" not in SAVED["config"]
    assert (
        check_same_run(SAVED, _with(config__discriminative=True, config__lora={"rank": 0}), FOLDER)
        == []
    )


def test_rl_is_held_to_the_model_it_began_with():
    """Its penalty is measured from there."""
    saved = _with(stage="rl", config__model="runs/sft/model")
    other = _with(stage="rl", config__model="runs/other/model")
    with pytest.raises(ValueError, match="model: 'runs/sft/model' then, 'runs/other/model' now"):
        check_same_run(saved, other, FOLDER)
    with pytest.raises(ValueError, match="generations: 8 then, 4 now"):
        check_same_run(saved, {**saved, "config": {**saved["config"], "generations": 4}}, FOLDER)


def test_what_may_change_are_settings_there_are():
    known = {*resuming._flat(asdict(SFTConfig())), *resuming._flat(asdict(RLConfig()))}
    assert resuming._FREE | resuming._SAID <= known


def test_deepspeeds_shards_fit_their_number_of_processes_only():
    with pytest.raises(ValueError, match="zero3 on 2 processes, this run is zero3 on 4"):
        check_same_run(_with(kind="zero3"), _with(kind="zero3", processes=4), FOLDER)
