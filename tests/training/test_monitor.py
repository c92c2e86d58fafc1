"""Monitor: the metrics file, resuming, trackers, warnings, samples."""

import json
import math

import pytest
from accelerate import Accelerator

from umer1.training import trackers
from umer1.training.metrics_file import read_metrics
from umer1.training.monitor import Monitor
from umer1.training.settings import RLConfig, SFTConfig

NUMBERS = {"total": 2.0, "learning_rate": 5.123e-7, "gen_hit": 0.5}


@pytest.fixture
def monitor(tmp_path):
    """Makes monitors of the same run, one after the other, as restarted processes do."""
    made = []

    def make(stage="sft", **settings):
        kind = SFTConfig if stage == "sft" else RLConfig
        config = kind(output=str(tmp_path / "run"), **settings)
        made.append(
            Monitor(tmp_path / "run", stage, Accelerator(cpu=True), config, total_steps=100)
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_step_is_a_line_a_row_and_an_event(monitor, tmp_path, capsys):
    one = monitor()
    one.begin()
    returned = one.step(7, NUMBERS)
    one.close()
    (row,) = read_metrics(tmp_path / "run" / "sft_metrics.jsonl")
    assert row == {"step": 7, **NUMBERS, "memory_gib": pytest.approx(returned["memory_gib"])}
    assert 0.01 < row["memory_gib"] < 100
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1 and out[0].startswith("sft 7/100 | loss 2 | hit@1 gen 50.0%")
    assert "\x1b" not in out[0]
    assert {"total", "memory_gib", "learning_rate"} <= events(tmp_path).keys()


def test_a_resumed_run_drops_the_killed_ones_later_lines_and_a_cut_one(monitor, tmp_path):
    one = monitor()
    one.begin()
    for step in range(1, 6):
        one.step(step, {"total": float(step)})
    one.close()
    path = tmp_path / "run" / "sft_metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "tot')
    two = monitor()
    two.begin(3)
    for step in (4, 5):
        two.step(step, {"total": 10.0 * step})
    two.close()
    assert [(row["step"], row["total"]) for row in read_metrics(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
        (5, 50.0),
    ]
    assert events(tmp_path)["total"] == [1.0, 2.0, 3.0, 40.0, 50.0]
    monitor().begin(0)
    assert read_metrics(path) == []


def test_a_value_that_json_cannot_hold_is_null(monitor, tmp_path):
    monitor().step(1, {"total": math.nan})
    text = (tmp_path / "run" / "sft_metrics.jsonl").read_text()
    assert json.loads(text)["total"] is None and "NaN" not in text


def test_a_sign_of_failure_is_printed_and_written_also_after_a_resume(monitor, tmp_path, capsys):
    one = monitor("rl")
    one.begin()
    for step in range(1, 9):
        one.step(step, {"missing": 0.5})
    one.close()
    two = monitor("rl")
    two.begin(8)
    two.step(9, {"missing": 0.5})
    two.step(10, {"missing": 0.5})
    rows = read_metrics(tmp_path / "run" / "rl_metrics.jsonl")
    assert [list(row.get("warnings", {})) for row in rows] == [[]] * 9 + [["missing_gen_emb"]]
    warning = capsys.readouterr().out.splitlines()[-1]
    assert warning.startswith("WARNING rl step 10, missing_gen_emb: 50% of the completions end")


def test_a_missing_wandb_is_one_error_before_anything_is_written(monitor, tmp_path, monkeypatch):
    find = trackers.find_spec
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(ValueError, match="wandb_project: got 'lab', but the package wandb is not"):
        monitor(wandb_project="lab")
    assert not (tmp_path / "run").exists()


def test_a_missing_tensorboard_is_said(monitor, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monitor().step(1, NUMBERS)
    assert "tensorboard is not installed" in capsys.readouterr().out
    assert not (tmp_path / "run" / "sft_log").exists()


@pytest.mark.slow
def test_wandb_offline(monitor, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    one = monitor(wandb_project="lab")
    one.begin()
    one.step(1, NUMBERS)
    one.close()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "sft_wandb_id").read_text()


def test_samples_are_written_and_a_resume_drops_later_ones(monitor, tmp_path):
    one = monitor(samples_every=2)
    one.begin()
    assert [step for step in range(1, 7) if one.samples_due(step - 1, step)] == [2, 4, 6]
    assert one.samples_due(2, 6) and not one.samples_due(2, 3)
    for step in (2, 4):
        one.samples(step, [sample()])
    files = lambda: sorted(path.name for path in (tmp_path / "run/samples/sft").iterdir())
    assert files() == ["step-00000002.jsonl", "step-00000004.jsonl"]
    row = json.loads((tmp_path / "run/samples/sft/step-00000004.jsonl").read_text())
    assert row == {"process": 0, **sample()}
    assert "step 4 · 1 of 1 nearest" in (tmp_path / "run" / "samples.html").read_text()
    monitor("rl", samples_every=2).begin(0)
    assert len(files()) == 2, "the other stage in the same output has its own"
    monitor(samples_every=2).begin(3)
    assert files() == ["step-00000002.jsonl"]


def sample():
    return {"pair": 0, "source": "digits", "side": "query", "prompt": "What?", "media": [], "sample": 0,
            "completion": "<think>1+1</think>", "tokens": 3, "finish": "gen_emb", "nearest": "two",
            "nearest_right": True}  # fmt: skip


def events(tmp_path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # in one process and second only a counter tells the files apart, and "10" would be read before "9"
    for file in (tmp_path / "run" / "sft_log").rglob("*.tfevents.*"):
        front, counter = file.name.rsplit(".", 1)
        file.rename(file.with_name(f"{front}.{counter.zfill(6)}"))
    read = EventAccumulator(str(tmp_path / "run" / "sft_log"))
    read.Reload()
    return {name: [event.value for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
