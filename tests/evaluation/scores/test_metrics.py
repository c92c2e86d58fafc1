"""Metrics against a scorer written from the definitions alone, and the edge cases one by one."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from umer1.evaluation.scores.metrics import (
    CUTOFFS,
    METRICS,
    has_unequal_grades,
    score_queries,
    score_query,
)
from umer1.evaluation.scores.set_order import set_order


def naive_scores(ranking, labels, grades=None):
    """Every metric by its definition, each computed on its own."""
    labels = [labels] if isinstance(labels, str | int) else list(labels)
    unique = set(labels)
    grade = dict(zip(labels, grades or [1] * len(labels), strict=True))
    out = {}
    for k in CUTOFFS:
        top = ranking[:k]
        found = len([name for name in unique if name in top])
        p, r = found / k, (found / len(unique) if unique else 1.0)
        out[f"hit@{k}"] = 1.0 if found else 0.0
        out[f"precision@{k}"], out[f"recall@{k}"] = p, r
        out[f"f1@{k}"] = 0.0 if p + r == 0 else 2 * p * r / (p + r)
        ranks = [i + 1 for i, name in enumerate(top) if name in unique]
        out[f"mrr@{k}"] = 1 / ranks[0] if ranks else 0.0
        precision_at = [sum(other <= rank for other in ranks) / rank for rank in ranks]
        out[f"map@{k}"] = sum(precision_at) / min(len(unique), k) if unique else 0.0
        for name, gain in (("linear", lambda g: g), ("exponential", lambda g: 2**g - 1)):
            gained = np.array([gain(grade[n]) if n in grade else 0.0 for n in top])
            best = np.array(sorted((gain(g) for g in grade.values()), reverse=True)[:k])
            discount = [math.log2(i + 2) for i in range(max(len(gained), len(best)))]
            ideal = (best / discount[: len(best)]).sum() if len(best) else 0.0
            value = (gained / discount[: len(gained)]).sum() / ideal if ideal else 0.0
            out[f"ndcg_{name}@{k}"] = value
    return out


def random_query(random, number):
    """2-30 documents, 1-8 labels, ids of both types, a label outside the documents in 20 % of
    cases.
    """
    strings = number % 2 == 0
    documents = int(random.integers(2, 31))
    names = random.permutation(1000)[: documents + 1].tolist()
    names = [f"d{name}" for name in names] if strings else names
    ranking, outsider = names[:-1], names[-1]
    labels = random.permutation(ranking)[: int(random.integers(1, 9))].tolist()
    if random.random() < 0.2:
        labels[0] = outsider
    grades = random.integers(1, 4, len(labels)).tolist() if random.random() < 0.5 else None
    if len(labels) == 1 and grades is None and random.random() < 0.5:
        labels = labels[0]
    return ranking, labels, grades


def test_agrees_with_the_definitions_on_3000_random_queries():
    random = np.random.default_rng(7)
    worst = 0.0
    for number in range(3000):
        ranking, labels, grades = random_query(random, number)
        ours, theirs = score_query(ranking, labels, grades), naive_scores(ranking, labels, grades)
        assert ours.keys() == theirs.keys()
        assert len(ours) == 24
        worst = max(worst, max(abs(ours[name] - theirs[name]) for name in ours))
    assert worst < 1e-12


def test_key_order_is_that_of_upstreams_score_file():
    scores = score_queries([{"prediction": ["a"], "label": "a", "rel_scores": None}]).mean()
    expected = [f"{metric}@{k}" for metric in METRICS for k in (1, 5, 10)]
    assert list(scores) == [*expected, "num_pred", "num_data"]
    assert (scores["num_pred"], scores["num_data"]) == (1, 1)


def test_values_worked_out_by_hand():
    scores = score_query(["x", "a", "y", "b"], ["a", "b", "c"], [3, 1, 2])
    assert scores["hit@1"] == 0.0
    assert scores["mrr@5"] == 0.5
    assert scores["precision@5"] == 2 / 5
    assert scores["recall@5"] == 2 / 3
    assert scores["map@5"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert scores["ndcg_linear@5"] == pytest.approx((3 / math.log2(3) + 1 / math.log2(5)) / ideal)
    ideal = 7 + 3 / math.log2(3) + 1 / 2
    gained = 7 / math.log2(3) + 1 / math.log2(5)
    assert scores["ndcg_exponential@5"] == pytest.approx(gained / ideal)


def test_precision_divides_by_k_even_when_fewer_candidates_exist():
    assert score_query(["a"], "a")["precision@10"] == 0.1


def test_average_precision_divides_by_the_smaller_of_labels_and_k():
    ranking = ["a", "b", "c", "d", "e", "f", "g"]
    assert score_query(ranking, ranking)["map@5"] == 1.0
    assert score_query(ranking, ranking)["recall@5"] == 5 / 7


def test_a_query_without_labels_has_recall_one_and_nothing_else():
    scores = score_query(["a", "b"], [])
    assert {name for name, value in scores.items() if value} == {f"recall@{k}" for k in CUTOFFS}
    assert scores["recall@1"] == 1.0


def test_labels_listed_twice_count_once():
    assert score_query(["a", "b"], ["a", "a"]) == score_query(["a", "b"], ["a"])


def test_a_label_listed_twice_with_grades_raises():
    with pytest.raises(ValueError, match=r"rel_scores: got 2 grades for 2 labels \(1 distinct\)"):
        score_query(["a", "b"], ["a", "a"], [1, 2])


def test_grades_of_another_number_than_labels_raise_and_name_the_query():
    rows = [{"prediction": ["a"], "label": ["a"], "rel_scores": None}]
    rows.append({"prediction": ["a"], "label": ["a", "b"], "rel_scores": [1]})
    with pytest.raises(ValueError, match="query 1: rel_scores: got 1 grades for 2 labels"):
        score_queries(rows)


def test_repeated_candidates_count_once_as_a_set_and_each_by_position():
    scores = score_query(["a", "a", "b"], ["a", "c"])
    assert scores["precision@5"] == 1 / 5
    assert scores["recall@5"] == 1 / 2
    assert scores["map@5"] == pytest.approx((1 / 1 + 2 / 2) / 2)
    assert scores["ndcg_linear@5"] == pytest.approx(1.0)


def test_no_queries_is_an_error():
    with pytest.raises(ValueError, match="no queries"):
        score_queries([])


def test_pairing_of_grades_is_ours_by_default_and_upstreams_on_request():
    """Upstream sends labels through a set before pairing: for small integers that sorts them."""
    ranking, labels, grades = [9, 1, 5], [9, 1, 5], [3, 2, 1]
    assert score_query(ranking, labels, grades)["ndcg_linear@5"] == 1.0
    order = list(set(labels))
    assert order != labels
    mispaired = naive_scores(ranking, order, grades)
    upstream = score_query(ranking, labels, grades, upstream_pairing=True)
    assert upstream == pytest.approx(mispaired)
    assert upstream["ndcg_linear@5"] < 1.0


def test_upstream_pairing_of_strings_depends_on_the_hash_seed_and_ours_does_not():
    code = (
        "import json; from umer1.evaluation.scores.metrics import score_query as s;"
        "r = ['a', 'b', 'c', 'd']; g = [3, 2, 1, 1];"
        "print(json.dumps([s(r, r, g)['ndcg_linear@5'],"
        " s(r, r, g, upstream_pairing=True)['ndcg_linear@5']]))"
    )
    seen = []
    for seed in range(4):
        env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
        seen.append(json.loads(out.stdout))
    assert {ours for ours, _ in seen} == {1.0}
    assert len({upstream for _, upstream in seen}) > 1


def test_the_order_of_strings_in_a_set_is_that_of_seed_0_unless_one_is_set(monkeypatch):
    names = [f"doc-{number}" for number in range(40)]
    code = "import json, sys; print(json.dumps(list(set(json.loads(sys.argv[1])))))"
    command = [sys.executable, "-S", "-c", code, json.dumps(names)]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    wanted = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert set_order(names) == set_order(names) == wanted
    assert set_order(["é\n", "é\n"]) == ["é\n"]
    assert set_order([9, 1, 5]) == list({9, 1, 5})
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    assert set_order(names) == list(set(names))


def test_equal_grades_need_no_second_number():
    assert not has_unequal_grades([{"rel_scores": [1, 1]}, {"rel_scores": None}, {}])
    assert has_unequal_grades([{"rel_scores": [1, 1]}, {"rel_scores": [1, 2]}])
