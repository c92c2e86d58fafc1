"""Ranking and its ties."""

import numpy as np
import pytest

from umer1.evaluation.scores.ranking import label_tied, rank_global, rank_local


def unit(random, rows, dimension=16):
    vectors = random.standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def orders(ranked):
    return [order.tolist() for order, _ in ranked]


@pytest.mark.parametrize("ties", ["stable", "upstream"])
def test_global_ranking_sorts_all_candidates_by_dot_product(ties):
    random = np.random.default_rng(0)
    queries, candidates = unit(random, 7), unit(random, 63)
    for query, (order, scores) in zip(
        queries, rank_global(queries, candidates, ties=ties), strict=True
    ):
        exact = candidates.astype(np.float64) @ query.astype(np.float64)
        assert sorted(order) == list(range(63))
        assert np.all(np.diff(exact[order]) < 1e-6)
        np.testing.assert_allclose(scores, exact[order], atol=1e-6)


def test_local_ranking_uses_only_the_querys_own_candidates():
    random = np.random.default_rng(1)
    queries, candidates = unit(random, 5), unit(random, 20)
    rows = [random.permutation(20)[: 3 + number] for number in range(5)]
    full = orders(rank_global(queries, candidates))
    for number, order in enumerate(orders(rank_local(queries, candidates, rows))):
        assert order == [row for row in full[number] if row in set(rows[number])]


def test_stable_ties_keep_the_order_of_the_candidates():
    random = np.random.default_rng(2)
    axes = np.eye(8, dtype=np.float32)
    candidates = axes[random.integers(0, 8, 1000)]
    query = np.linspace(0.1, 0.8, 8, dtype=np.float32)[None]
    order, scores = rank_global(query, candidates)[0]
    assert len(set(scores)) == 8
    for score in set(scores):
        assert np.all(np.diff(order[scores == score]) > 0)
    rows = [np.flatnonzero(candidates[:, 3])[[2, 0, 1]]]
    assert orders(rank_local(query, candidates, rows)) == [rows[0].tolist()]


def test_upstream_ties_are_numpys_default_sort():
    random = np.random.default_rng(3)
    queries = unit(random, 4)
    candidates = np.repeat(unit(random, 40), 5, axis=0)
    expected = np.argsort(-np.dot(queries, candidates.T), axis=1)
    assert orders(rank_global(queries, candidates, ties="upstream")) == expected.tolist()


def test_a_tie_between_right_and_wrong_is_noticed():
    scores = np.array([0.9, 0.5, 0.5, 0.1], np.float32)
    assert label_tied(["w", "a", "x", "y"], scores, {"a"})
    assert label_tied(["w", "x", "a", "y"], scores, {"a"})
    assert not label_tied(["w", "a", "b", "y"], scores, {"a", "b"})
    assert not label_tied(["a", "w", "x", "y"], scores, {"a"})
    assert not label_tied(["w", "x", "y", "z"], scores, {"a"})


def test_vectors_that_cannot_be_ranked_are_refused():
    good = np.ones((2, 4), np.float32)
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="candidates: row 1 is not finite"):
        rank_global(good, bad)
    with pytest.raises(ValueError, match="queries: got float64"):
        rank_global(good.astype(np.float64), good)
    with pytest.raises(ValueError, match="dimension 4, candidates 3"):
        rank_global(good, good[:, :3])
    with pytest.raises(ValueError, match="ties: got 'fast'"):
        rank_global(good, good, ties="fast")
    with pytest.raises(ValueError, match="1 candidate lists for 2 queries"):
        rank_local(good, good, [np.array([0])])
