"""umer1 eval report on runs of chosen rankings."""

import json

import pytest
from PIL import Image

from umer1.cli import main


@pytest.fixture
def report(capsys):
    """report(...) -> status, stdout, stderr."""

    def call(*arguments):
        status = main(["eval", "report", *map(str, arguments)])
        return status, *capsys.readouterr()

    return call


def test_one_run_prints_its_table_and_writes_its_pages(report, two_runs, tmp_path):
    status, out, err = report(two_runs[0], "--plot", tmp_path / "plot.svg")
    assert status == 0 and "digit" in out and "66.7" in out
    written = {path.name for path in (two_runs[0] / "report").iterdir()}
    plots = {"scores.png", "pass_at_k.png", "agreement.png", "length.png"}
    assert written == {"report.html", "report.md", *plots}
    assert "report.html" in err and (tmp_path / "plot.svg").read_text().startswith("<?xml")


def test_several_runs_side_by_side(report, two_runs, tmp_path):
    options = [
        "--names",
        "before,after",
        "--compare",
        "before disc, after gen",
        "-o",
        tmp_path / "o",
    ]
    status, _, err = report(*two_runs, *options)
    assert status == 0, err
    text = (tmp_path / "o" / "report.md").read_text()
    assert text.startswith("# before and after\n\nafter gen scores 83.3, before disc 60.5, over 2")
    assert Image.open(tmp_path / "o" / "scores.png").size[0] > 900


def test_json_is_one_document_and_writes_nothing(report, two_runs):
    status, out, _ = report(*two_runs, "--json")
    content = json.loads(out)
    assert status == 0 and content["compared"] == ["sft gen", "rl gen"]
    digit = content["tasks"]["digit"]
    assert digit["difference"]["mean"] == pytest.approx(1 / 6)
    assert digit["main"]["sft gen"]["low"] < 2 / 3 < digit["main"]["sft gen"]["high"]
    assert digit["outcomes"] == {"win": 2, "loss": 1, "both_right": 3, "both_wrong": 0}
    assert list(json.loads(report(two_runs[0], "--json")[1])["tasks"]) == ["digit", "page"]
    assert not (two_runs[0] / "report").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "sft gen"], "compare: got 'sft gen', need two of these"),
        (["--names", "one"], "labels: got ['one'] for 2 runs"),
        (["--plot", "p.png"], "--plot: draws one run, got 2"),
        (["--data", "nowhere"], "data: nowhere is not there"),
        (["nowhere"], "run: nowhere/report.json is not there"),
    ],
)
def test_mistakes_are_one_line(report, two_runs, options, message):
    status, _, err = report(*two_runs, *options)
    assert status == 1 and message in err and err.count("\n") == 1
    assert not (two_runs[0] / "report").exists()
