"""The whole flow on a benchmark with every parser family: numbers, files, resume, refusal."""

import json
import pickle

import numpy as np
import pytest

from umer1.evaluation import MissingMedia, Report, evaluate, load_tasks
from umer1.evaluation.modes import parse_modes


def run(embedder, benchmark, out, **options):
    return evaluate(embedder, benchmark, output_dir=out, progress=False, **options)


def hit_at_1(task, queries, candidates):
    """Per query, by hand: is the best-scoring candidate a label?"""
    rows = {name: vector for name, vector in zip(task.candidates, candidates, strict=True)}
    hits = []
    for query, vector in zip(task.queries, queries, strict=True):
        names = query.candidates if task.eval_type == "local" else list(task.candidates)
        best = max(names, key=lambda name: float(rows[name] @ vector))
        hits.append(best in query.labels)
    return np.array(hits)


def test_scores_are_those_of_the_embedders_vectors(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path / "out", modes="disc,gen,gen-disc")
    for task in load_tasks(benchmark_dir):
        entry = report.tasks[task.name]
        hits = {}
        for query_mode, target_mode in parse_modes("disc,gen,gen-disc"):
            variant = {"disc": "at", "gen": "greedy"}
            queries = [
                embedder.vector(q.item, query_mode, variant[query_mode]) for q in task.queries
            ]
            candidates = [
                embedder.vector(item, target_mode, variant[target_mode])
                for item in task.candidates.values()
            ]
            right = hit_at_1(task, queries, candidates)
            name = query_mode if query_mode == target_mode else f"{query_mode}-{target_mode}"
            assert entry["scores"][name]["hit@1"] == right.mean(), (task.name, name)
            hits[name] = right
        if task.main_metric == "hit@1":
            assert entry["main"]["oracle"] == (hits["disc"] | hits["gen"]).mean()
        assert entry["main"]["oracle"] >= max(entry["main"]["disc"], entry["main"]["gen"])
        assert entry["without_gen_emb"] == {"qry": 0, "tgt": 0}


def test_one_stream_of_all_tasks_with_every_candidate_once(embedder, benchmark_dir, tmp_path):
    run(embedder, benchmark_dir, tmp_path / "out", names=["digit", "pages"])
    assert embedder.calls == [{"items": 4 + 4 + 3 + 5, "mode": "both", "n": 1, "temperature": 0.0}]


def test_modes_are_chosen_per_side(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path, names=["digit"], modes=[("gen", "disc")])
    # the quick ones first
    assert [call["mode"] for call in embedder.calls] == ["disc", "gen"]
    assert list(report.tasks["digit"]["main"]) == ["gen-disc"]


def test_both_modes_on_one_side_are_one_pass(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path, names=["digit"], modes="both-disc")
    assert [(call["mode"], call["items"]) for call in embedder.calls] == [("disc", 4), ("both", 4)]
    assert list(report.tasks["digit"]["main"]) == ["disc", "gen-disc"]
    assert parse_modes("both") == parse_modes("disc,gen,disc-gen,gen-disc")


def test_readout_reaches_the_embedder(embedder, benchmark_dir, tmp_path):
    for readout in ("at", "after"):
        out = tmp_path / readout
        run(embedder, benchmark_dir, out, names=["digit"], modes="disc", readout=readout)
        item = load_tasks(benchmark_dir, names=["digit"])[0].queries[0].item
        saved = pickle.loads((out / "digit_disc_qry").read_bytes())
        np.testing.assert_array_equal(saved[0], embedder.vector(item, "disc", readout))


def test_files_are_upstreams(embedder, benchmark_dir, tmp_path):
    run(embedder, benchmark_dir, tmp_path, names=["pages"])
    written = {path.name for path in tmp_path.iterdir() if path.name != "bench"}
    assert written == {
        "report.json",
        "run.json",
        "pages_gen_qry_text.jsonl",
        "pages_gen_tgt_text.jsonl",
        "pages_qry_index.jsonl",
        "pages_tgt_index.jsonl",
        *(f"pages_{mode}_{side}.npy" for mode in ("gen", "disc") for side in ("qry", "tgt")),
        *(f"pages_{mode}_{side}" for mode in ("gen", "disc") for side in ("qry", "tgt")),
        *(
            f"pages_{mode}_{mode}_{what}"
            for mode in ("gen", "disc")
            for what in ("info.jsonl", "score.json", "pred.jsonl")
        ),
    }
    table = pickle.loads((tmp_path / "pages_gen_tgt").read_bytes())
    assert list(table) == ["page3", "page1", "page0", "page4", "page2"]
    score = json.loads((tmp_path / "pages_gen_gen_score.json").read_text())
    assert list(score)[:3] == ["hit@1", "hit@5", "hit@10"]
    assert list(score)[-2:] == ["num_pred", "num_data"]
    lines = (tmp_path / "pages_gen_gen_pred.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert sorted(first["prediction"]) == sorted(table)
    assert (first["label"], first["rel_scores"]) == (["page3", "page1"], [2, 1])


def test_pass_at_k_samples_queries_and_keeps_candidates_greedy(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path, names=["digit", "caption"], samples=5)
    assert [(call["n"], call["items"]) for call in embedder.calls] == [(1, 14), (5, 7)]
    for task in load_tasks(benchmark_dir, names=["digit", "caption"]):
        candidates = [embedder.vector(item, "gen", "greedy") for item in task.candidates.values()]
        right = np.stack(
            [
                hit_at_1(
                    task, [embedder.vector(q.item, "gen", f"{s}") for q in task.queries], candidates
                )
                for s in range(5)
            ],
            axis=1,
        )
        curve = report.tasks[task.name]["pass_at_k"]
        assert list(curve) == ["1", "2", "3", "4", "5"]
        assert curve["1"] == pytest.approx(right.mean())
        assert curve["5"] == pytest.approx(right.any(axis=1).mean())


def test_a_second_run_encodes_nothing_and_gives_the_same(
    embedder, fake_embedder_class, benchmark_dir, tmp_path
):
    first = run(embedder, benchmark_dir, tmp_path, samples=3, model_id="a")
    again = fake_embedder_class()
    second = run(again, benchmark_dir, tmp_path, samples=3, model_id="a")
    assert again.calls == []
    assert second.to_dict() == first.to_dict()


def test_a_mode_can_be_added_later(fake_embedder_class, benchmark_dir, tmp_path):
    run(fake_embedder_class(), benchmark_dir, tmp_path, names=["digit"], modes="disc")
    second = fake_embedder_class()
    report = run(second, benchmark_dir, tmp_path, names=["digit"], samples=2)
    assert [call["mode"] for call in second.calls] == ["gen", "gen"]
    assert list(report.tasks["digit"]["main"]) == ["disc", "gen", "oracle"]


@pytest.mark.parametrize(
    "change", [{"readout": "after"}, {"model_id": "b"}, {"seed": 1}, {"max_new_tokens": 8}]
)
def test_results_of_other_settings_are_not_mixed(embedder, benchmark_dir, tmp_path, change):
    run(embedder, benchmark_dir, tmp_path, names=["digit"], model_id="a")
    with pytest.raises(ValueError, match="use another directory"):
        run(embedder, benchmark_dir, tmp_path, **{"names": ["digit"], "model_id": "a"} | change)


def test_results_for_other_samples_or_data_are_not_mixed(embedder, benchmark_dir, tmp_path):
    run(embedder, benchmark_dir, tmp_path, names=["digit"], samples=2)
    for change in ({"samples": 3}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match="holds results with sampling="):
            run(embedder, benchmark_dir, tmp_path, **{"names": ["digit"], "samples": 2} | change)
    run(embedder, benchmark_dir, tmp_path, names=["digit"])
    path = benchmark_dir / "image-tasks" / "digit.jsonl"
    path.write_text(path.read_text().replace("Name the", "Read the"))
    with pytest.raises(ValueError, match="results of digit for other data"):
        run(embedder, benchmark_dir, tmp_path, names=["digit"])


def test_vectors_written_elsewhere_are_scored_without_a_model(
    embedder, fake_embedder_class, benchmark_dir, tmp_path
):
    """Another program's files have no run.json, and may name candidates by absolute paths."""
    report = run(embedder, benchmark_dir, tmp_path / "ours", names=["moment"])
    for mode in ("disc", "gen"):
        path = tmp_path / "ours" / f"moment_{mode}_tgt"
        table = pickle.loads(path.read_bytes())
        moved = {f"/elsewhere/{name}": table[name] for name in reversed(table)}
        path.write_bytes(pickle.dumps(moved))
    (tmp_path / "ours" / "run.json").unlink()
    second = fake_embedder_class()
    again = run(second, benchmark_dir, tmp_path / "ours", names=["moment"])
    assert second.calls == []
    assert again.tasks["moment"]["scores"] == report.tasks["moment"]["scores"]


def test_files_of_another_task_are_refused(embedder, benchmark_dir, tmp_path):
    run(embedder, benchmark_dir, tmp_path, names=["digit"], modes="disc")
    path = tmp_path / "digit_disc_qry"
    vectors = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(vectors[:2]))
    with pytest.raises(ValueError, match="digit_disc_qry: holds 2 queries, the task has 4"):
        run(embedder, benchmark_dir, tmp_path, names=["digit"], modes="disc")
    path.write_bytes(pickle.dumps(vectors))
    (tmp_path / "digit_disc_tgt").write_bytes(pickle.dumps({"one": vectors[0]}))
    with pytest.raises(ValueError, match="its 1 candidates are not the task's 4"):
        run(embedder, benchmark_dir, tmp_path, names=["digit"], modes="disc")


def test_missing_media_stop_before_any_model_work(embedder, benchmark_dir, tmp_path):
    (benchmark_dir / "visdoc-tasks" / "pages" / "page2.png").unlink()
    with pytest.raises(MissingMedia, match="pages: 1 of 5 missing"):
        run(embedder, benchmark_dir, tmp_path / "out")
    assert embedder.calls == []
    assert not (tmp_path / "out").exists()


def test_a_task_without_queries_is_refused(embedder, benchmark_dir, tmp_path):
    digit, pages = load_tasks(benchmark_dir, names=["digit", "pages"])
    pages.queries.clear()
    with pytest.raises(ValueError, match="pages: has 0 queries and 5 candidates"):
        run(embedder, [digit, pages], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_generations_without_gen_emb_are_counted(fake_embedder_class, benchmark_dir, tmp_path):
    class Rambles(fake_embedder_class):
        def stream(self, items, **options):
            for place, out in super().stream(items, **options):
                if options["numbers"][place] == 0:
                    out.finish[0] = "length"
                yield place, out

    report = run(Rambles(), benchmark_dir, tmp_path, names=["digit"])
    assert report.tasks["digit"]["without_gen_emb"] == {"qry": 1, "tgt": 1}
    assert "queries whose generation ended without <gen_emb>: digit 1/4" in report.notes


def test_collapsed_vectors_are_reported_as_ties(fake_embedder_class, benchmark_dir, tmp_path):
    """With the label at candidate 0 and a stable sort, equal vectors would look like a perfect
    score.
    """

    class Collapsed(fake_embedder_class):
        def vector(self, item, kind, variant):
            return np.full(4, 0.5, np.float32)

    report = run(Collapsed(), benchmark_dir, tmp_path, names=["digit"], modes="disc")
    assert report.tasks["digit"]["main"]["disc"] == 1.0
    assert "queries whose right candidate ties with a wrong one: digit disc 4/4" in report.notes


def test_vectors_that_are_not_finite_are_an_error(fake_embedder_class, benchmark_dir, tmp_path):
    class Broken(fake_embedder_class):
        def vector(self, item, kind, variant):
            return np.full(4, np.nan, np.float32)

    with pytest.raises(ValueError, match="row 0 is not finite"):
        run(Broken(), benchmark_dir, tmp_path, names=["digit"], modes="disc")


def test_unequal_grades_are_shown_under_both_pairings(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path)
    assert "scores_upstream_pairing" in report.tasks["pages"]
    assert "scores_upstream_pairing" not in report.tasks["caption"]
    assert any("upstream's pairing of grades" in note for note in report.notes)


BAD_OPTIONS = [
    ({"modes": "all"}, "modes: got 'all'"),
    ({"modes": "gen-disc-gen"}, "modes: got 'gen-disc-gen'"),
    ({"modes": []}, "modes: got none"),
    ({"samples": 0}, "samples: got 0"),
    ({"samples": 4, "modes": "disc"}, "pass@k needs"),
    ({"samples": 4, "temperature": 0.0}, "temperature: got 0.0"),
    ({"ties": "x"}, "ties='x'"),
    ({"readout": "x"}, "readout='x'"),
    ({"pairing": "x"}, "pairing='x'"),
    ({"batch_size": 0}, "batch_size: got 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options(embedder, benchmark_dir, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(embedder, benchmark_dir, tmp_path, **options)
    assert embedder.calls == []


def test_report_reads_back(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path, samples=2)
    assert Report.load(tmp_path / "report.json").to_dict() == report.to_dict()


def test_a_copy_of_the_benchmark_is_the_same_data(embedder, benchmark_dir, tmp_path):
    report = run(embedder, benchmark_dir, tmp_path / "a")
    benchmark_dir.parent.rename(tmp_path / "moved")
    moved = run(embedder, tmp_path / "moved", tmp_path / "b")
    digests = [{name: e["data"] for name, e in r.tasks.items()} for r in (report, moved)]
    assert digests[0] == digests[1]
