"""Means, table, plot."""

import io

import pytest
from PIL import Image
from rich.console import Console

from umer1.evaluation import Report
from umer1.evaluation.means.benchmark_groups import benchmark_groups


def entry(modality, kind, main, pass_at_k=None):
    out = {
        "modality": modality,
        "kind": kind,
        "main_metric": "hit@1",
        "queries": 10,
        "candidates": 4,
        "main": main,
        "tied_labels": {},
        "without_gen_emb": {"qry": 0, "tgt": None},
    }
    return {**out, "pass_at_k": pass_at_k} if pass_at_k else out


@pytest.fixture
def report():
    tasks = {
        "a": entry("image", "one_look", {"disc": 0.5, "gen": 0.7, "oracle": 0.8}),
        "b": entry(
            "image", "multi_step", {"disc": 0.1, "gen": 0.9, "oracle": 0.9}, {"1": 0.4, "2": 0.6}
        ),
        "c": entry("video", "multi_step", {"disc": 0.3}, {"1": 0.2, "2": 0.3}),
    }
    return Report({"samples": 2}, tasks)


def text(table):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_means_are_unweighted_over_tasks(report):
    assert report.mean("overall", "disc") == pytest.approx(0.3)
    assert report.mean("image", "gen") == pytest.approx(0.8)
    assert report.mean("multi_step", "disc") == pytest.approx(0.2)
    assert report.groups["multi_step"]["pass_at_k"]["2"]["mean"] == pytest.approx(0.45)
    assert list(report.groups) == ["overall", "image", "video", "one_look", "multi_step"]


def test_an_incomplete_mean_is_never_silent(report):
    with pytest.raises(ValueError, match="overall, gen: no value for c"):
        report.mean("overall", "gen")
    assert "all tasks, gen: mean over 2 of 3 tasks, without c" in report.notes
    assert report.groups["overall"]["main"]["gen"]["missing"] == ["c"]
    assert "80.0*" in text(report.table())


def test_a_benchmark_run_is_averaged_over_the_benchmarks_groups():
    tasks = {name: entry("image", None, {"gen": 0.5}) for name in ("OVEN", "CIRR")}
    tasks["ViDoRe_esg_reports_v2"] = entry("visdoc", None, {"gen": 0.9})
    report = Report({}, tasks)
    mean = report.groups["image/RET"]["main"]["gen"]
    assert (mean["mean"], mean["tasks"], len(mean["missing"])) == (0.5, 2, 10)
    assert report.groups["overall"]["tasks"] == ["CIRR", "OVEN"]
    assert "visdoc" not in report.groups
    assert "2/78 tasks" in text(report.table())
    with pytest.raises(ValueError, match="overall, gen: no value for"):
        report.mean("overall", "gen")
    shown = [note for note in report.notes if note.startswith("image retrieval, gen: mean over 2")]
    assert shown[0].endswith("and 4 more")
    assert "in no mean, because MMEB-V2 does not count them: ViDoRe_esg_reports_v2" in report.notes


def test_the_mean_that_the_released_script_prints_is_shown_beside_ours():
    pages = ("ViDoSeek-page", "MMLongBench-page")
    values = {name: 0.0 if name in pages else 0.66 for name in benchmark_groups()["visdoc"]}
    tasks = {name: entry("visdoc", None, {"gen": value}) for name, value in values.items()}
    told = (
        "visual documents, gen: 60.50 over 24 tasks; the released report script prints 66.00, "
        "over 22, without the page tasks"
    )
    assert told in Report({}, tasks).notes
    del tasks["VisRAG_PlotQA"]
    assert not any("script" in note for note in Report({}, tasks).notes)


def test_both_numbers_are_shown_whichever_pairing_was_reported():
    ours, theirs = {"hit@1": 0.6}, {"hit@1": 0.4}
    told = "a, gen: hit@1 60.00; 40.00 with upstream's pairing of grades"
    for reported in (ours, theirs):
        one = entry("image", None, {"gen": reported["hit@1"]})
        one |= {"scores": {"gen": reported}, "scores_upstream_pairing": {"gen": theirs}}
        if reported is theirs:
            one["scores_correct_pairing"] = {"gen": ours}
        assert told in Report({}, {"a": one}).notes
    one["notes"] = ["two pictures are new"]
    assert "a: two pictures are new" in Report({}, {"a": one}).notes


def test_pass_at_k_says_how_it_was_estimated(report):
    assert any("unbiased estimate from n sampled queries" in note for note in report.notes)


def test_table_has_a_row_per_task_and_group(report):
    shown = text(report.table())
    for cell in ("gen", "oracle", "pass@1", "several steps needed", "70.0", "30.0"):
        assert cell in shown


def test_plot_is_a_picture_with_and_without_a_curve(report, tmp_path):
    report.plot(tmp_path / "new" / "plot.png")
    for item in report.tasks.values():
        item.pop("pass_at_k", None)
    report.plot(tmp_path / "bars.png")
    wide, narrow = (Image.open(tmp_path / name).size for name in ("new/plot.png", "bars.png"))
    assert wide[0] > narrow[0] > 500


def test_a_report_of_another_version_is_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"version": 99}')
    with pytest.raises(ValueError, match="report version 99"):
        Report.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("[1]", "holds list, wants an object"),
        ("{", "not a report of an evaluation: Expecting"),
        ('{"version": 1, "settings": {}}', "has no object 'tasks'"),
        ('{"version": 1, "settings": [], "tasks": {}}', "has no object 'settings'"),
    ],
)
def test_a_file_that_is_no_report_is_one_error(tmp_path, content, wanted):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=f"r.json: .*{wanted}"):
        Report.load(tmp_path / "r.json")
