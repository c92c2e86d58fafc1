"""Runs side by side: means, paired differences, wins and losses, and what cannot be compared."""

import numpy as np
import pytest

from umer1.evaluation.pages import write_report
from umer1.evaluation.pages.comparison import compare, default_pair, find_pair
from umer1.evaluation.runs import load_run


@pytest.fixture
def both(two_runs):
    return compare([load_run(run) for run in two_runs])


def test_means_are_the_reports_and_lie_in_their_intervals(both):
    assert both.labels == ["sft", "rl"]
    assert [column.label for column in both.columns][:3] == ["sft disc", "sft gen", "sft oracle"]
    for number, run in enumerate(both.runs):
        for group in ("overall", "image", "multi_step"):
            for column in ("disc", "gen", "oracle"):
                one = both.estimate(both.groups[group], f"{number}.{column}")
                assert one.mean == pytest.approx(run.report.mean(group, column))
                assert one.low <= one.mean <= one.high and not one.missing


def test_a_difference_is_paired(both):
    task = both.tasks["digit"]
    same = both.difference(task, "0.disc", "1.disc")
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    one = both.difference(task, "0.gen", "1.gen")
    assert one.mean == pytest.approx(1 / 6)
    draws = task.draws["1.gen"] - task.draws["0.gen"]
    assert (one.low, one.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    # its resamples move in sixths of single queries: unpaired, both sides would move
    assert set(np.round(6 * draws).astype(int)) <= set(range(-6, 13))
    swapped = both.difference(task, "1.gen", "0.gen")
    assert (swapped.mean, swapped.low, swapped.high) == (-one.mean, -one.high, -one.low)
    overall = both.difference(both.groups["overall"], "0.gen", "1.gen")
    assert overall.mean == pytest.approx(np.mean([one.mean, task_gap(both, "page")]))


def task_gap(both, name):
    return both.tasks[name].means["1.gen"] - both.tasks[name].means["0.gen"]


def test_wins_and_losses(both):
    kinds = both.outcome_kinds(both.tasks["digit"], "0.gen", "1.gen")
    assert list(kinds) == ["both_right", "loss", "both_right", "win", "win", "both_right"]
    counts = {"win": 2, "loss": 1, "both_right": 3, "both_wrong": 0}
    assert both.outcomes(both.tasks["digit"], "0.gen", "1.gen") == counts
    overall = both.outcomes(both.groups["overall"], "0.gen", "1.gen")
    # of the pages one gained a rank, one lost two
    assert overall == {"win": 3, "loss": 2, "both_right": 4, "both_wrong": 0}


def test_other_data_is_never_compared_query_by_query(make_run):
    ranks = {"gen": [1, 2, 1]}
    runs = [make_run(label, digit={"ranks": ranks, "data": label}) for label in "ab"]
    both = compare([load_run(run) for run in runs])
    assert both.outcomes(both.groups["overall"], "0.gen", "1.gen") is None
    assert "digit: the runs used different data, so their difference is not paired" in both.notes
    draws = both.tasks["digit"].draws
    assert not np.array_equal(draws["0.gen"], draws["1.gen"])


@pytest.mark.parametrize(("data", "who"), [((None, None), "a and b"), (("x", None), "b")])
def test_data_that_is_not_known_is_not_taken_as_the_same(make_run, tmp_path, data, who):
    ranks = {"disc": [1, 1, 2], "gen": [1, 2, 1]}
    runs = [
        make_run(label, digit={"ranks": ranks, "data": digest})
        for label, digest in zip("ab", data, strict=True)
    ]
    both = compare([load_run(run) for run in runs])
    task = both.tasks["digit"]
    assert both.outcomes(task, "0.gen", "1.gen") is None
    assert not np.array_equal(task.draws["0.gen"], task.draws["1.gen"])
    # a run's own columns are of the same queries, whatever they are
    assert both.outcomes(task, "1.disc", "1.gen")["win"] == 1
    note = f"digit: which data {who} used is not known"
    assert [one for one in both.notes if one.startswith(note)]
    html = write_report(both, tmp_path / "out")["html"].read_text()
    assert note in html
    assert '"same":{"digit":["0|0","1|1"]}' in html
    alone = compare([load_run(runs[1])])
    assert not [one for one in alone.notes if "not known" in one]


def test_a_mean_over_a_part_says_so(make_run):
    ranks = {"disc": [1, 2], "gen": [1, 1]}
    one = make_run("one", digit={"ranks": ranks}, sum={"ranks": {"disc": [2, 2]}})
    two = make_run("two", digit={"ranks": ranks})
    both = compare([load_run(one), load_run(two)])
    overall = both.groups["overall"]
    assert both.estimate(overall, "0.gen").missing == ("sum",)
    assert both.estimate(overall, "1.disc").missing == ("sum",)
    assert both.difference(overall, "0.disc", "1.disc").missing == ("sum",)
    assert both.estimate(both.tasks["sum"], "1.gen") is None
    assert both.difference(both.tasks["sum"], "0.gen", "1.gen") is None


def test_without_rankings_there_is_a_mean_and_no_interval(two_runs):
    for mode in ("disc", "gen"):
        (two_runs[0] / f"digit_{mode}_{mode}_pred.jsonl").unlink()
    one = compare([load_run(two_runs[0])])
    estimate = one.estimate(one.groups["overall"], "0.gen")
    assert estimate.mean == pytest.approx(one.runs[0].report.mean("overall", "gen"))
    assert estimate.low is None and "digit, gen: no rankings in sft, so no interval" in one.notes
    assert one.outcomes(one.tasks["digit"], "0.disc", "0.gen") is None


def test_rankings_that_are_not_the_reports_are_noted(two_runs):
    run = load_run(two_runs[0])
    run.tasks["digit"].entry["main"]["gen"] = 0.25
    notes = compare([run]).notes
    assert any("digit, gen: reported 25.00, its rankings give 66.67" in note for note in notes)


def test_names_of_runs_and_pairs(two_runs, both, tmp_path):
    assert default_pair(both) == ("0.gen", "1.gen")
    assert find_pair(both, "sft disc, rl gen") == ("0.disc", "1.gen")
    assert default_pair(compare([load_run(two_runs[0])])) == ("0.disc", "0.gen")
    with pytest.raises(ValueError, match="compare: got 'gen', need two of these"):
        find_pair(both, "gen")
    with pytest.raises(ValueError, match="given twice"):
        compare([load_run(two_runs[0])] * 2)
    with pytest.raises(ValueError, match="labels: got .* for 2 runs"):
        compare(both.runs, ["one"])
    nested = two_runs[0].rename(tmp_path / "x"), tmp_path / "y" / "x"
    nested[1].parent.mkdir()
    two_runs[1].rename(nested[1])
    labels = compare([load_run(run) for run in nested]).labels
    assert labels == [f"{tmp_path.name}/x", "y/x"]
