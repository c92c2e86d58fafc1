"""Insights of a run: the report's own numbers, the tables, the command, and what is refused."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from umer1.cli.app import app
from umer1.evaluation import evaluate
from umer1.evaluation.insights.analysis import analyse_run
from umer1.evaluation.insights.routing import ROUTERS

NAMES = ["digit", "find", "action", "caption", "pages"]


@pytest.fixture
def run(embedder, benchmark_dir, tmp_path):
    def made(name="run", **options):
        options = {"names": NAMES, "samples": 4, **options}
        evaluate(embedder, benchmark_dir, output_dir=tmp_path / name, progress=False, **options)
        return tmp_path / name

    return made


def test_numbers_are_the_reports(run):
    directory = run()
    report = json.loads((directory / "report.json").read_text())
    content = analyse_run(directory, progress=False).content
    assert list(content["tasks"]) == NAMES
    for name, entry in report["tasks"].items():
        for column in ("disc", "gen", "oracle"):
            assert content["tasks"][name][column]["value"] == pytest.approx(entry["main"][column])
        for k, value in content["tasks"][name]["pass_at_k"].items():
            assert value["value"] == pytest.approx(entry["pass_at_k"][k])
    for group, entry in report["groups"].items():
        if group in content["modes"]:
            for column in ("disc", "gen", "oracle"):
                found = content["modes"][group][column]["value"]
                assert found == pytest.approx(entry["main"][column]["mean"]), (group, column)
            for k in ("1", "2", "4"):
                found = content["samples"][group]["pass_at_k"][k]["value"]
                assert found == pytest.approx(entry["pass_at_k"][k]["mean"]), (group, k)
    assert {"overall", "image", "video", "visdoc", "one_look"} <= set(content["modes"])


def test_routers_lie_between_the_worst_and_the_oracle(run):
    analysis = analyse_run(run(), progress=False)
    overall = analysis.content["modes"]["overall"]
    assert set(overall["routers"]) == {*ROUTERS, "sum"}
    for columns in analysis.found.columns.values():
        for router in ROUTERS:
            picked = np.where(columns[f"reasons:{router}"], columns["gen"], columns["disc"])
            np.testing.assert_array_equal(columns[router], picked)
            assert (columns[router] <= columns["oracle"]).all()
    better = overall[overall["better_mode"]]["value"]
    for found in overall["routers"].values():
        gained = found["mean"]["value"] - better
        assert found["above_better"]["value"] == pytest.approx(gained)
        share = found["share_of_oracle_gain"]["value"]
        assert share == pytest.approx(gained / (overall["oracle"]["value"] - better))


def test_the_same_model_has_no_effect_and_another_has_one(run):
    directory = run()
    for earlier, different in ((run("copy"), False), (run("other", readout="after"), True)):
        found = analyse_run(directory, before=earlier, progress=False).content["modes"]
        assert found["overall"]["rl"]["gen"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert (
            found["overall"]["rl"]["disc"]["low"] < found["overall"]["rl"]["disc"]["high"]
        ) == different


def test_runs_that_do_not_fit_are_refused(run):
    with pytest.raises(ValueError, match="run: digit was not evaluated in mode gen"):
        analyse_run(run("disc", modes="disc", samples=1))
    with pytest.raises(ValueError, match="before: has no task find"):
        analyse_run(run(), before=run("part", names=["digit"]))
    with pytest.raises(ValueError, match="benchmark, embedder: got one of them"):
        analyse_run(run(), benchmark=[])
    with pytest.raises(ValueError, match="report.json"):
        analyse_run(run() / "nowhere")


def test_a_run_on_other_data_is_no_run_before(run):
    directory, earlier = run(), run("earlier")
    for mode in ("disc", "gen"):
        path = earlier / f"find_{mode}_{mode}_info.jsonl"
        path.write_text(path.read_text().replace("p0.png", "p9.png"))
    with pytest.raises(ValueError, match="before: find was evaluated on other queries"):
        analyse_run(directory, before=earlier)


def test_command_prints_tables_and_writes_three_files(run):
    directory = run()
    result = CliRunner().invoke(app, ["eval", "insights", str(directory), "--quiet"])
    assert result.exit_code == 0, result.output
    for words in (
        "Gen against disc",
        "Routers between",
        "pass@4 less pass@1",
        "Per task",
        "Not measured",
    ):
        assert words in result.output
    assert (directory / "insights.md").read_text().strip() in result.output
    rows = [
        json.loads(line) for line in (directory / "insights_queries.jsonl").read_text().splitlines()
    ]
    assert len(rows) == sum(
        json.loads((directory / "insights.json").read_text())["queries"].values()
    )
    assert {"task", "row", "disc", "gen", "oracle", "pass@4", "learned"} <= set(rows[0])


def test_without_samples_there_is_no_pass_at_k(run):
    content = analyse_run(run(samples=1), progress=False)
    assert "samples" not in content.content
    assert "pass@k and fusions (the run has no samples)" in content.text()


def test_command_wants_the_runs_own_model(run):
    directory = run(model_id="another@0")
    arguments = [
        "eval",
        "insights",
        str(directory),
        "--benchmark",
        str(directory),
        "--model",
        "tiny",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert "--model: tiny@" in str(result.exception) and "another@0 did" in str(result.exception)
