"""umer1 eval score and umer1 eval submission, as a user calls them."""

import json
import shutil

import numpy as np
import pytest

from umer1.evaluation import files
from umer1.evaluation.files import ResultFiles


@pytest.fixture
def results(tmp_path):
    """Two tasks of the benchmark under two modes, with their score files."""
    folder = tmp_path / "run"
    random = np.random.default_rng(0)
    for name in ("OVEN", "ViDoSeek-page"):
        result = ResultFiles(folder, name)
        names = [f"c{row}" for row in range(12)]
        infos = [{"cand_names": names, "label_name": [names[row], names[0]]} for row in range(6)]
        if name != "OVEN":
            infos = [{**info, "rel_scores": [2, 1]} for info in infos[1:]]
        for mode in ("disc", "gen"):
            files.save_queries(result.vectors("qry", mode), random.standard_normal((len(infos), 8)))
            vectors = random.standard_normal((12, 8))
            files.save_candidates(result.vectors("tgt", mode), names, vectors)
            files.save_jsonl(result.scored(mode, mode, "info.jsonl"), infos)
    return folder


def test_score_then_submission(run, results, tmp_path):
    scored = run("eval", "score", results, "--json", "--output", tmp_path / "scored")
    assert scored.status == 0, scored.err
    rows = json.loads(scored.out)
    assert [(row["task"], row["column"]) for row in rows] == [
        ("OVEN", "disc"),
        ("OVEN", "gen"),
        ("ViDoSeek-page", "disc"),
        ("ViDoSeek-page", "gen"),
    ]
    assert rows[0]["theirs"] is None
    assert rows[2]["upstream_pairing"] is not None
    again = run("eval", "score", tmp_path / "scored", "--tasks", "OVEN")
    assert again.status != 0
    assert "no task with vectors of both sides" in again.err

    out = tmp_path / "mine.json"
    arguments = ["eval", "submission", tmp_path / "scored", "--mode", "disc", "-o", out]
    refused = run(*arguments, "--model-name", "mine")
    assert refused.status != 0
    assert "--pages fixed" in refused.err
    assert not out.exists()
    written = run(*arguments, "--model-name", "mine", "--pages", "fixed")
    assert written.status == 0, written.err
    assert "mean over 2 of 78 tasks" in written.out.replace("\n", " ")
    content = json.loads(out.read_text())
    assert content["metadata"]["model_name"] == "mine"
    assert content["metrics"]["image"]["OVEN"]["hit@1"] == rows[0]["score"]
    assert content["metrics"]["visdoc"]["ViDoSeek-page-fixed"]["num_data"] == 5
    assert content["metrics"]["video"]["MSVD"] == "FILE_N/A"
    read = run("eval", "submission", out, "--json")
    entry = json.loads(read.out)["files"][str(out)]["groups"]["image"]
    assert (entry["mean"], entry["tasks"]) == (rows[0]["score"], 1)
    assert "OVEN" not in entry["missing"]


def test_scores_of_a_directory_are_added_to_its_own_report(run, results, tmp_path):
    for name in ("OVEN", "ViDoSeek-page"):
        scored = run("eval", "score", results, "--tasks", name, "-o", results)
        assert scored.status == 0, scored.err
    tasks = json.loads((results / "report.json").read_text())["tasks"]
    assert {name: list(entry["main"]) for name, entry in tasks.items()} == {
        name: ["disc", "gen", "oracle"] for name in ("OVEN", "ViDoSeek-page")
    }
    other = tmp_path / "other"
    shutil.copytree(results, other)
    refused = run("eval", "score", other, "-o", results)
    assert refused.status != 0
    assert "output: " in refused.err and "use another directory" in refused.err


def test_score_shows_the_difference_to_the_file(run, results):
    path = ResultFiles(results, "OVEN").scored("gen", "gen", "score.json")
    files.save_json(path, {"hit@1": 0.123, "hit@5": 0.5})
    shown = run("eval", "score", results, "--tasks", "OVEN", "--ties", "upstream")
    assert shown.status == 0, shown.err
    assert "12.30" in shown.out
    assert "OVEN gen: hit@1" in shown.err


def test_mistakes_are_one_line(run, results, tmp_path):
    for arguments, message in (
        (["score", tmp_path / "nowhere"], "is not one"),
        (["score", results, "--pairing", "x"], "pairing: got 'x'"),
        (["score", results, "--tasks", "x"], "no task named x; there are OVEN, ViDoSeek-page"),
        (["submission", results, "-o", tmp_path / "m.json"], "--model-name"),
        (["submission", results, "--mode", "gen,disc"], "a submission has one"),
        (["submission", results, tmp_path / "m.json"], "need directories, or .json files"),
    ):
        failed = run("eval", *arguments)
        assert failed.status != 0, arguments
        assert message in failed.err
        assert "Traceback" not in failed.err
