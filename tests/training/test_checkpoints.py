"""Checkpoints: whole or not there; kept, damaged, out of room; stopped by a signal, by the clock, by NaN."""

import errno
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter

from umer1.training import checkpoints, loop, sft
from umer1.training.checkpoints import CheckpointError


@pytest.fixture
def config(sft_config):
    """The cheapest run there is: texts alone."""
    return replace(sft_config, sources="texts", batch_size=4, steps=6, save_every=2, cache_encoded=True)  # fmt: skip


@pytest.fixture
def at_step(monkeypatch):
    """at_step(3, action): do something in step 3, when its losses are there and before its update."""

    def plan(step, action):
        update = loop.Run.update

        def acting(self, numbers, *rest):
            if self.step + 1 == step:
                action(self)
            return update(self, numbers, *rest)

        monkeypatch.setattr(loop.Run, "update", acting)

    return plan


def _names(config):
    return sorted(path.name for path in (loop.Path(config.output) / "checkpoints/sft").iterdir())


def _losses(config):
    lines = (loop.Path(config.output) / "sft_metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["total"] for row in map(json.loads, lines)}


def test_the_newest_are_kept_with_all_that_says_what_they_are(config):
    sft.run(replace(config, steps=8, keep_checkpoints=2), progress=False)
    assert _names(config) == ["step-00000004", "step-00000006"]
    summary = json.loads(
        (loop.Path(config.output) / "checkpoints/sft/step-00000006/run.json").read_text()
    )
    assert (summary["step"], summary["kind"], summary["processes"]) == (6, "one", 1)
    assert summary["data"] == {"pairs": 8, "sources": {"texts": 8}}
    assert (
        summary["config"]["batch_size"] == 4 and summary["versions"]["torch"] == torch.__version__
    )
    assert "rng-00000.pt" in summary["files"]


def test_a_damaged_checkpoint_is_left_aside_for_the_one_before(config, capsys):
    sft.run(config, progress=False)
    wanted = _losses(config)
    folder = loop.Path(config.output) / "checkpoints/sft/step-00000004"
    largest = max((folder / "state").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    capsys.readouterr()
    sft.run(config, progress=False)
    out = capsys.readouterr().out
    assert f"{folder} is not whole (state/{largest.name} has" in out
    assert "resuming from" in out and "step-00000002 at step 2" in out
    assert _losses(config) == wanted


def test_a_checkpoint_beside_the_stages_folders_is_gone_on_from(config, capsys):
    """Where older versions wrote it."""
    config = replace(config, steps=3)
    sft.run(config, progress=False)
    wanted, place = _losses(config), loop.Path(config.output) / "checkpoints"
    (place / "sft/step-00000002").rename(place / "step-00000002")
    sft.run(config, progress=False)
    assert f"resuming from {place}/step-00000002 at step 2" in capsys.readouterr().out
    assert _losses(config) == wanted


def test_texts_alone_go_on_although_no_picture_was_ever_seen(config, tmp_path, capsys):
    """The tower is trained, and nothing but blank cells went through it before the checkpoint."""
    records = json.loads(loop.Path(config.data).read_text())
    texts = [each for each in records if not {"image", "video"} & each["qry"].keys()]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    config = replace(config, data=str(tmp_path / "texts.json"), sources="", steps=3)
    sft.run(config, progress=False)
    wanted = _losses(config)
    sft.run(config, progress=False)
    assert "step-00000002 at step 2" in capsys.readouterr().out
    assert _losses(config) == wanted


def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_was_needed(config, monkeypatch):
    """The writer fails halfway through the second checkpoint, as at a quota."""
    write = FileSystemWriter.write_data

    def failing(self, plan, planner):
        if "step-00000004" not in str(self.path):
            return write(self, plan, planner)
        (self.path / "__0_0.distcp").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(FileSystemWriter, "write_data", failing)
    with pytest.raises(CheckpointError, match=r"no checkpoint at step 4: it needs \d{6,} bytes .*"
                       r"no room on the disk \(No space left on device\).*whole: make room"):  # fmt: skip
        sft.run(config, progress=False)
    assert _names(config) == ["step-00000002"], "something half-written stays"
    monkeypatch.undo()
    sft.run(config, progress=False)
    assert sorted(_losses(config)) == [1, 2, 3, 4, 5, 6]


def test_too_little_room_is_seen_before_anything_is_written(config, monkeypatch):
    usage = checkpoints.shutil.disk_usage
    monkeypatch.setattr(
        checkpoints.shutil, "disk_usage", lambda path: usage(path)._replace(free=5000)
    )
    with pytest.raises(CheckpointError, match="5000 bytes are free|no room on the disk"):
        sft.run(config, progress=False)
    assert _names(config) == []


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(
    config, at_step, number, status, capsys
):
    at_step(3, lambda run: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        sft.run(replace(config, save_every=0), progress=False)
    assert stop.value.code == status
    assert f"stopped by {number.name} at step 3 of 6, saved as" in capsys.readouterr().err
    assert _names(config) == ["step-00000003"] and sorted(_losses(config)) == [1, 2, 3]
    left = getattr(signal.getsignal(number), "__self__", None)
    assert not isinstance(left, loop.Signals), "still handled"


def test_checkpoints_come_by_the_clock_too(config, monkeypatch):
    log = loop.Run.log

    def ticking(self, numbers):
        self._saved_at -= 60.0
        log(self, numbers)

    monkeypatch.setattr(loop.Run, "log", ticking)
    sft.run(replace(config, save_every=0, save_every_minutes=2, keep_checkpoints=0), progress=False)
    assert _names(config) == ["step-00000002", "step-00000004"]


def _spoil(run):
    for parameter in run.trainee.parameters():
        if parameter.grad is not None:
            parameter.grad.view(-1)[0] = torch.nan
            return


def test_nan_stops_the_run_and_tells_what_was_in_the_step(config, at_step):
    at_step(3, _spoil)
    with pytest.raises(FloatingPointError, match="NaN or infinity .* of step 3; .*nan-step-3.json"):
        sft.run(config, progress=False)
    dump = json.loads((loop.Path(config.output) / "nan-step-3.json").read_text())
    assert dump["step"] == 3 and dump["processes"][0]["numbers"]["total"] > 0
    assert _names(config) == ["step-00000002"]


def test_nan_left_out_changes_neither_weights_nor_moments(config, at_step, capsys):
    kept = {}

    def spoil(run):
        _spoil(run)
        kept["before"] = [each.clone() for each in _state(run)]

    def compare(run):
        kept["after"] = [each.clone() for each in _state(run)]

    def _state(run):
        states = run.parallel.bare_optimizer.state.values()
        return [*run.trainee.parameters(), *(each["exp_avg"] for each in states)]

    at_step(3, spoil)
    at_step(4, compare)
    sft.run(replace(config, on_nan="skip"), progress=False)
    assert len(kept["before"]) == len(kept["after"])
    assert all(map(torch.equal, kept["before"], kept["after"]))
    assert "step 3: left out (1 so far)" in capsys.readouterr().err
    assert sorted(_losses(config)) == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_no_number_makes_no_update(config, monkeypatch):
    """The gradient of an infinite loss can be finite; it is not used."""
    backward = loop.Parallel.backward
    monkeypatch.setattr(
        loop.Parallel,
        "backward",
        lambda self, loss: backward(self, loss + torch.tensor(float("inf"))),
    )
    with pytest.raises(FloatingPointError, match="step 1"):
        sft.run(config, progress=False)
