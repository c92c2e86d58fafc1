"""Which checkpoints a run goes on from."""

import copy
from pathlib import Path

import pytest

from umer1.training.resuming import check_same_run

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
    assert check_same_run(SAVED, _with(config__log_every=1), FOLDER) == []


@pytest.mark.parametrize("change, line", [
    (dict(config__optimizer__learning_rate=1e-5), "optimizer.learning_rate has changed .*5e-05 then, 1e-05 now"),
    (dict(config__steps=200), "steps has changed since the checkpoint: 100 then, 200 now"),
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
    (dict(data__pairs=25), "data: 24 pairs then, 25 now"),
    (dict(data__sources={"cats": 15, "dogs": 9}), "data: 16 pairs of 'cats' then, 15 now"),
    (dict(shape__vision={"depth": 2}), "model: vision.depth 1 then, 2 now"),
    (dict(kind="zero3"), "was written by ddp on 2 processes, this run is zero3 on 2"),
])  # fmt: skip
def test_what_breaks_the_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_same_run(SAVED, _with(**change), FOLDER)


def test_deepspeeds_shards_fit_their_number_of_processes_only():
    with pytest.raises(ValueError, match="zero3 on 2 processes, this run is zero3 on 4"):
        check_same_run(_with(kind="zero3"), _with(kind="zero3", processes=4), FOLDER)
