"""Scores made again and written: into the run's own directory, and into others."""

import pytest

from umer1.evaluation import Report, evaluate
from umer1.evaluation.scores.rescore import rescore
from umer1.evaluation.scores.save_rescored import save_rescored

RULES = {"ties": "stable", "pairing": "correct"}


@pytest.fixture
def made(embedder, benchmark_dir, tmp_path):
    """A run with samples, and its directory."""
    names = ["digit", "caption", "pages"]
    options = {"names": names, "samples": 3, "model_id": "a", "progress": False}
    return evaluate(
        embedder, benchmark_dir, output_dir=tmp_path / "run", **options
    ), tmp_path / "run"


def again(directory, output, names=None, **rules):
    rules = RULES | rules
    results = list(rescore(directory, names=names, **rules))
    return save_rescored(output, directory, results, rules)


@pytest.mark.parametrize("names", [None, ["caption"]])
def test_a_run_scored_into_itself_keeps_its_report(made, names):
    report, directory = made
    rescored = again(directory, directory, names).to_dict()
    expected = report.to_dict()
    assert rescored["settings"].pop("vectors") == str(directory)
    assert rescored == expected
    assert Report.load(directory / "report.json").settings["model"] == "a"


def test_both_pairings_are_kept_apart(made):
    report, directory = made
    rescored = again(directory, directory, pairing="upstream")
    assert [note for note in rescored.notes if "pairing" in note] == [
        note for note in report.notes if "pairing" in note
    ]


def test_tasks_left_out_say_by_what_rules_they_were_scored(made):
    _, directory = made
    later = again(directory, directory, ["digit"], ties="upstream")
    assert [note for note in later.notes if "earlier" in note] == [
        f"{name}: scored by an earlier call, with ties stable" for name in ("caption", "pages")
    ]
    assert set(later.tasks["digit"]["pass_at_k"]) == {"1", "2", "3"}


def test_another_directory_is_filled_task_by_task_but_with_one_runs_scores(
    made, fake_embedder_class, benchmark_dir, tmp_path
):
    _, directory = made
    for name in ("digit", "caption"):
        report = again(directory, tmp_path / "again", [name])
    assert list(report.tasks) == ["digit", "caption"]
    evaluate(
        fake_embedder_class(),
        benchmark_dir,
        output_dir=tmp_path / "b",
        names=["digit"],
        progress=False,
    )
    for output in (tmp_path / "again", directory):
        with pytest.raises(ValueError, match=r"output: .* has a report of .*, not of .*/b"):
            again(tmp_path / "b", output)
