"""A finished run read back: the same scores, vectors, texts, and clear errors."""

import json

import numpy as np
import pytest

from umer1.evaluation import evaluate, pass_at_k
from umer1.evaluation.runs import load_run


@pytest.fixture
def run_dir(embedder, benchmark_dir, tmp_path):
    out = tmp_path / "run"
    evaluate(
        embedder,
        benchmark_dir,
        output_dir=out,
        modes="disc,gen,gen-disc",
        samples=3,
        progress=False,
    )
    return out


def test_per_query_scores_average_to_the_report(run_dir):
    run = load_run(run_dir)
    assert list(run.tasks) == list(run.report.tasks) and run.settings["samples"] == 3
    for task in run.tasks.values():
        assert task.pairs == [("disc", "disc"), ("gen", "gen"), ("gen", "disc")]
        for pair in task.pairs:
            column = pair[0] if pair[0] == pair[1] else "-".join(pair)
            values = task.per_query(task.entry["main_metric"], *pair)
            assert values.dtype == np.float64 and values.shape == (task.entry["queries"],)
            assert values.mean() == pytest.approx(task.entry["main"][column], abs=1e-15)
        gen, disc = (task.per_query(task.entry["main_metric"], m, m) for m in ("gen", "disc"))
        assert np.maximum(gen, disc).mean() == pytest.approx(task.entry["main"]["oracle"])


def test_vectors_texts_samples_and_rankings(run_dir, embedder):
    task = load_run(run_dir).tasks["digit"]
    queries, candidates = task.vectors("qry", "gen"), task.vectors("tgt", "gen")
    assert queries.shape == (4, 24) and queries.dtype == np.float32
    assert task.samples().shape == (4, 3, 24) and task.samples()[0, 0] != pytest.approx(queries[0])
    lines = (run_dir / "digit_gen_qry_text.jsonl").read_text().splitlines()
    assert task.texts("qry") == [json.loads(line) for line in lines] and len(lines) == 4
    assert task.texts("qry", "disc") is None and len(task.sample_texts()[0]["summary"]) == 3
    assert task.infos()[1]["label_name"] == "one"
    rows = [task.candidate_names.index(name) for name in task.infos()[1]["cand_names"]]
    best = task.candidate_names[rows[int(np.argmax(candidates[rows] @ queries[1]))]]
    assert task.predictions("gen", "gen")[1]["prediction"][0] == best


def test_samples_reproduce_the_reported_pass_at_k(run_dir):
    for task in load_run(run_dir).tasks.values():
        right = task.samples_right()
        assert right.shape == (task.entry["queries"], 3)
        assert {str(k): v for k, v in pass_at_k(right).items()} == task.entry["pass_at_k"]


def test_arrays_are_preferred_and_older_runs_have_neither_them_nor_an_index(run_dir):
    task = load_run(run_dir).tasks["digit"]
    files = {mode: task.vectors("tgt", mode) for mode in ("gen", "disc")}
    for path in [*run_dir.glob("digit_*_index.jsonl"), *run_dir.glob("digit_*_tgt.npy")]:
        path.unlink()
    np.save(run_dir / "digit_gen_tgt.npy", files["gen"] * 2)
    task = load_run(run_dir).tasks["digit"]
    assert (task.vectors("tgt", "gen") == files["gen"] * 2).all()
    assert (task.vectors("tgt", "disc") == files["disc"]).all()
    assert task.candidates is None and task.queries is None
    assert sorted(task.candidate_names) == ["one", "three", "two", "zero"]
    rows = [{"row": n, "name": f"n{n}", "text": "t", "image": [], "video": []} for n in range(4)]
    (run_dir / "digit_tgt_index.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = load_run(run_dir).tasks["digit"]
    assert task.candidates == rows and task.candidate_names == ["n0", "n1", "n2", "n3"]


def test_errors_say_what_is_wrong(run_dir, tmp_path):
    with pytest.raises(ValueError, match="run: .*nowhere/report.json is not there"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(ValueError, match="not a report of an evaluation"):
        load_run(tmp_path)
    task = load_run(run_dir).tasks["digit"]
    with pytest.raises(ValueError, match="metric: got 'hit@3'"):
        task.per_query("hit@3", "gen", "gen")
    with pytest.raises(ValueError, match="not scored as disc-gen"):
        task.per_query("hit@1", "disc", "gen")
    path = run_dir / "digit_gen_gen_pred.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="holds 3 queries, the report says 4"):
        load_run(run_dir).tasks["digit"].per_query("hit@1", "gen", "gen")
    np.save(run_dir / "digit_gen_qry.npy", np.zeros((3, 24), np.float32))
    with pytest.raises(ValueError, match=r"holds \[3, 24\], need 4 rows"):
        task.vectors("qry", "gen")
