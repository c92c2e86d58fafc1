"""Which checkpoints a stage finds, and which it keeps."""

import json

import pytest

from umer1.training.checkpoint_folders import find_checkpoints, folder_of, prune, write_summary


@pytest.fixture
def make(tmp_path):
    """make("sft", 4): a whole checkpoint; in another folder if one is given."""

    def make(stage, step, folder=None):
        folder = folder or folder_of(tmp_path, stage, step)
        folder.mkdir(parents=True)
        (folder / "state").write_text("weights")
        write_summary(folder, {"stage": stage, "step": step})
        return folder

    return make


def _damage(folder):
    (folder / "state").write_text("half")


def _steps(tmp_path, stage="sft"):
    return [each.step for each in find_checkpoints(tmp_path, stage)]


def test_the_newest_are_first_and_what_is_wrong_is_said(make, tmp_path):
    for step in (2, 4, 11):
        make("sft", step)
    _damage(folder_of(tmp_path, "sft", 4))
    (tmp_path / "checkpoints/sft/step-best").mkdir()
    found = find_checkpoints(tmp_path, "sft")
    assert [(each.step, each.damage) for each in found] == [
        (11, ""), (4, "state has 4 bytes instead of 7"), (2, "")]  # fmt: skip
    assert found[0].summary["stage"] == "sft"


def test_the_stages_of_one_output_do_not_know_each_other(make, tmp_path):
    for step in (200, 300):
        make("sft", step)
    for step in (5, 10, 15):
        prune(tmp_path, "rl", make("rl", step), keep=2)
    assert _steps(tmp_path) == [300, 200] and _steps(tmp_path, "rl") == [15, 10]


def test_what_is_damaged_takes_no_place_of_a_whole_one(make, tmp_path):
    for step in (2, 4, 6):
        make("sft", step)
    _damage(folder_of(tmp_path, "sft", 4))
    _damage(folder_of(tmp_path, "sft", 6))
    make("sft", 9)
    prune(tmp_path, "sft", make("sft", 7), keep=2)
    assert _steps(tmp_path) == [9, 7, 2]


def test_what_was_written_just_now_stays_whatever_is_said_of_it(make, tmp_path):
    make("sft", 2)
    written = make("sft", 4)
    _damage(written)  # a file system that is behind
    prune(tmp_path, "sft", written, keep=1)
    assert _steps(tmp_path) == [4]


def test_all_are_kept_if_no_number_is_given(make, tmp_path):
    for step in (2, 4, 6):
        prune(tmp_path, "sft", make("sft", step), keep=0)
    assert _steps(tmp_path) == [6, 4, 2]


def test_checkpoints_beside_the_stages_are_found_by_what_they_say(make, tmp_path):
    """As they lay before each stage had its own folder."""
    beside = tmp_path / "checkpoints"
    make("sft", 2, beside / "step-00000002")
    make("rl", 3, beside / "step-00000003")
    (beside / "step-00000004").mkdir()
    make("sft", 4)
    assert [(each.step, each.folder.parent == beside) for each in find_checkpoints(tmp_path, "sft")] == [
        (4, False), (4, True), (2, True)]  # fmt: skip
    prune(tmp_path, "sft", make("sft", 6), keep=2)
    left = sorted(str(each.relative_to(beside)) for each in beside.glob("**/step-*"))
    assert left == ["sft/step-00000004", "sft/step-00000006", "step-00000003", "step-00000004"]
    assert json.loads((beside / "step-00000003/run.json").read_text())["stage"] == "rl"
