"""From vectors to metrics against a scorer written from the definitions alone, ties included."""

import math

import numpy as np
import pytest

from umer1.evaluation.datasets import EvalQuery, EvalTask
from umer1.evaluation.scores import scoring
from umer1.evaluation.scores.metrics import CUTOFFS
from umer1.evaluation.scores.scoring import score_vectors, top_is_right


def ranked_by_definition(names, scores):
    """Best first; equal scores in the order of the candidates."""
    return [names[place] for place in sorted(range(len(names)), key=lambda p: (-scores[p], p))]


def metrics_by_definition(ranking, labels, grades):
    """24 values, each from its formula; plain Python floats."""
    unique = set(labels)
    grade = dict(zip(labels, grades or [1] * len(labels), strict=True))
    ranks = [rank for rank, name in enumerate(ranking[:10], start=1) if name in unique]
    gains = {"linear": lambda g: g, "exponential": lambda g: 2.0**g - 1}
    out = {}
    for k in CUTOFFS:
        inside = [rank for rank in ranks if rank <= k]
        found = len(unique & set(ranking[:k]))
        p, r = found / k, (found / len(unique) if unique else 1.0)
        out[f"hit@{k}"] = 1.0 if found else 0.0
        out[f"precision@{k}"], out[f"recall@{k}"] = p, r
        out[f"f1@{k}"] = 2 * p * r / (p + r) if found else 0.0
        out[f"mrr@{k}"] = 1 / inside[0] if inside else 0.0
        precisions = [(place + 1) / rank for place, rank in enumerate(inside)]
        out[f"map@{k}"] = math.fsum(precisions) / min(len(unique), k) if unique else 0.0
        for name, gain in gains.items():
            best = sorted((gain(g) for g in grade.values()), reverse=True)[:k]
            ideal = math.fsum(g / math.log2(i + 2) for i, g in enumerate(best))
            got = math.fsum(gain(grade[ranking[rank - 1]]) / math.log2(rank + 1) for rank in inside)
            out[f"ndcg_{name}@{k}"] = got / ideal if ideal else 0.0
    return out


def random_task(random, queries):
    """Small integer vectors, so that scores are exact and often equal.

    Names are strings or integers; labels one name or several, some of them no candidate, rarely
    none at all, rarely one twice; grades 0 to 3 in half of the cases; local lists may repeat a name.
    """
    candidates = int(random.integers(2, 40))
    names = random.permutation(1000)[: candidates + 1].tolist()
    if random.random() < 0.5:
        names = [f"n{name}" for name in names]
    names, outsider = names[:-1], names[-1]
    infos = []
    for _ in range(queries):
        own = random.permutation(candidates)[: int(random.integers(1, candidates + 1))].tolist()
        listed = [names[row] for row in own] + [names[own[0]]] * int(random.random() < 0.1)
        labels = [names[row] for row in random.permutation(candidates)[: random.integers(1, 9)]]
        if random.random() < 0.2:
            labels[0] = outsider
        info = {"cand_names": listed, "label_name": labels}
        chance = random.random()
        if chance < 0.5:
            info["rel_scores"] = random.integers(0, 4, len(labels)).tolist()
        elif chance < 0.6:
            info["label_name"] = labels[0]
        elif chance < 0.65:
            info["label_name"] = [*labels, labels[0]]
        elif chance < 0.66:
            info["label_name"] = []
        infos.append(info)
    vectors = [
        random.integers(-2, 3, (rows, 4)).astype(np.float32) for rows in (queries, candidates)
    ]
    return infos, names, *vectors


def worst_difference(monkeypatch, cases, per_task=250):
    """Largest difference over all metrics of `cases` queries: local, global, and global in blocks."""
    random, worst = np.random.default_rng(11), 0.0
    for number in range(cases // per_task):
        infos, names, queries, candidates = random_task(random, per_task)
        kind = ("local", "global", "blocks")[number % 3]
        monkeypatch.setattr(scoring, "COMPLETE", 0 if kind == "blocks" else 50_000_000)
        eval_type = "local" if kind == "local" else "global"
        scored = score_vectors(infos, names, queries, candidates, eval_type)
        exact = queries.astype(int) @ candidates.astype(int).T
        row_of = {name: row for row, name in enumerate(names)}
        for query, info in enumerate(infos):
            listed = info["cand_names"] if kind == "local" else names
            ranking = ranked_by_definition(listed, [exact[query, row_of[name]] for name in listed])
            assert scored.predictions[query]["prediction"] == ranking
            label = info["label_name"]
            labels = label if isinstance(label, list) else [label]
            expected = metrics_by_definition(ranking, labels, info.get("rel_scores"))
            assert len(expected) == len(scored.scores.values) == 24
            for name, value in expected.items():
                worst = max(worst, abs(scored.scores.values[name][query] - value))
    return worst


def test_scores_equal_the_definitions_on_3000_random_queries(monkeypatch):
    assert worst_difference(monkeypatch, 3000) < 1e-12


@pytest.mark.slow
def test_scores_equal_the_definitions_on_100000_random_queries(monkeypatch):
    assert worst_difference(monkeypatch, 100_000) < 1e-12


def task_of(infos, names, eval_type="global"):
    queries = [EvalQuery({}, i["cand_names"], i["label_name"], i.get("rel_scores")) for i in infos]
    return EvalTask("t", "image", eval_type, queries, {name: {} for name in names})


@pytest.mark.parametrize("eval_type", ["local", "global"])
@pytest.mark.parametrize("ties", ["stable", "upstream"])
def test_first_ranks_of_samples_are_those_of_the_rankings(eval_type, ties):
    random = np.random.default_rng(3)
    infos, names, _, candidates = random_task(random, 40)
    infos = [{**info, "cand_names": names} for info in infos]
    samples = random.standard_normal((40, 5, 4)).astype(np.float32)
    task = task_of(infos, names, eval_type)
    right = top_is_right(task, samples, candidates, ties=ties)
    for sample in range(5):
        scored = score_vectors(
            infos, names, np.ascontiguousarray(samples[:, sample]), candidates, eval_type, ties=ties
        )
        np.testing.assert_array_equal(right[:, sample], scored.scores.values["hit@1"])


def test_both_pairings_are_there_and_the_chosen_one_is_the_score():
    names = [9, 1, 5]
    infos = [{"cand_names": names, "label_name": names, "rel_scores": [3, 2, 1]}]
    queries, candidates = np.ones((1, 1), np.float32), np.array([[3.0], [2.0], [1.0]], np.float32)
    for pairing in ("correct", "upstream"):
        scored = score_vectors(infos, names, queries, candidates, "global", pairing=pairing)
        assert scored.correct.mean()["ndcg_linear@5"] == 1.0
        assert scored.upstream.mean()["ndcg_linear@5"] < 1.0
        assert scored.scores is getattr(scored, pairing)
    infos[0]["rel_scores"] = [2, 2, 2]
    scored = score_vectors(infos, names, queries, candidates, "global", pairing="upstream")
    assert scored.upstream is None
    assert scored.scores is scored.correct


@pytest.mark.parametrize("complete", [0, 50_000_000])
def test_a_right_candidate_that_ties_is_counted_also_below_the_kept_ranks(monkeypatch, complete):
    """Collapsed vectors: the label ties with everything, wherever it stands."""
    monkeypatch.setattr(scoring, "COMPLETE", complete)
    monkeypatch.setattr(scoring, "KEPT", 5)
    names = [f"c{row}" for row in range(50)]
    infos = [{"cand_names": [], "label_name": name} for name in ("c0", "c49", "nowhere")]
    collapsed = np.ones((50, 3), np.float32)
    scored = score_vectors(infos, names, collapsed[:3], collapsed, "global")
    assert scored.tied == 2
    apart = np.eye(50, dtype=np.float32)
    assert score_vectors(infos, names, apart[:3], apart, "global").tied == 1


def test_what_was_not_done_as_asked_is_said(monkeypatch):
    monkeypatch.setattr(scoring, "COMPLETE", 10)
    monkeypatch.setattr(scoring, "KEPT", 3)
    names, vectors = list("abcdef"), np.eye(6, dtype=np.float32)
    infos = [{"cand_names": names, "label_name": name} for name in names]
    scored = score_vectors(infos, names, vectors, vectors, "global", ties="upstream")
    assert scored.ties == "stable"
    assert scored.notes[0] == "the best 3 of 6 candidates were ranked and written"
    assert "upstream's order needs complete rankings" in scored.notes[1]
    assert scored.predictions[2]["prediction"] == ["c", "a", "b"]
    local = score_vectors(infos, names, vectors, vectors, "local", ties="upstream")
    assert (local.ties, local.notes) == ("upstream", ["rankings are written down to rank 3"])
    assert [len(row["prediction"]) for row in local.predictions] == [3] * 6
    assert local.scores.mean()["hit@1"] == 1.0


BAD = [
    ({"infos": []}, "queries: got none"),
    ({"names": ["a"]}, "candidates: got 2 vectors for 1 names"),
    ({"names": ["a", "a"]}, "candidates: rows 0 and 1 are both 'a'"),
    ({"pairing": "x"}, "pairing: got 'x', need one of correct, upstream"),
    ({"ties": "x"}, "ties: got 'x'"),
    ({"eval_type": "x"}, "eval_type: got 'x'"),
    ({"infos": [{"cand_names": ["z"], "label_name": "a"}], "eval_type": "local"}, "'z' of a query"),
    ({"infos": [{"label_name": ["a"], "rel_scores": [1, 2]}]}, "query 0: rel_scores: got 2 grades"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_one_error(change, message):
    good = {
        "infos": [{"cand_names": ["a", "b"], "label_name": "a"}],
        "names": ["a", "b"],
        "queries": np.ones((1, 2), np.float32),
        "candidates": np.ones((2, 2), np.float32),
        "eval_type": "global",
    }
    with pytest.raises(ValueError, match=message):
        score_vectors(**good | change)
