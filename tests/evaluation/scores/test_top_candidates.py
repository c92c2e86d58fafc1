"""Blocks of any size give the complete ranking's beginning, ties included, in bounded memory."""

import subprocess
import sys

import numpy as np
import pytest

from umer1.evaluation.scores import top_candidates
from umer1.evaluation.scores.ranking import rank_global
from umer1.evaluation.scores.top_candidates import rank_top


def unit(random, rows, dimension=16):
    vectors = random.standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exact(random, rows, dimension=8):
    """Small integers: every dot product is exact, whatever computes it, and many are equal."""
    return random.integers(-2, 3, (rows, dimension)).astype(np.float32)


def by_definition(queries, candidates, count):
    """Best first, equal scores in candidate order; scores in float64, where they are exact."""
    scores = queries.astype(np.float64) @ candidates.astype(np.float64).T
    order = [sorted(range(len(row)), key=lambda c, row=row: (-row[c], c)) for row in scores]
    return np.array(order)[:, :count], np.sort(scores, axis=1)[:, ::-1][:, :count]


@pytest.mark.parametrize("elements", [1, 64, 1000, 1 << 20])
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (63, 10), (199, 100), (1000, 7)])
def test_equal_scores_keep_candidate_order_in_blocks_of_any_size(
    monkeypatch, elements, rows, count
):
    monkeypatch.setattr(top_candidates, "QUERIES", 5)
    random = np.random.default_rng(rows + count)
    queries, candidates = exact(random, 12), exact(random, rows)
    top = rank_top(queries, candidates, count, elements=elements)
    order, scores = by_definition(queries, candidates, count)
    assert top.rows.shape == (12, count)
    width = order.shape[1]
    np.testing.assert_array_equal(top.rows[:, :width], order)
    np.testing.assert_array_equal(top.scores[:, :width], scores)
    assert (top.rows[:, width:] == -1).all()
    assert np.isneginf(top.scores[:, width:]).all()


# shapes in which OpenBLAS gives identical columns different last bits
@pytest.mark.parametrize(
    ("asked", "rows", "dimension"), [(1, 1003, 256), (1, 333, 63), (3, 333, 63)]
)
def test_identical_candidates_tie_exactly_wherever_they_stand(asked, rows, dimension):
    random = np.random.default_rng(0)
    distinct = unit(random, 40, dimension)
    which = random.integers(0, 40, rows)
    candidates, queries = distinct[which], unit(random, asked, dimension)
    candidates[::7] += np.float32(-0.0)
    for ranked in (rank_global(queries, candidates), _pairs(rank_top(queries, candidates, 300))):
        for order, scores in ranked:
            groups = which[order]
            changes = np.flatnonzero(np.diff(groups))
            assert len(changes) == len(set(groups.tolist())) - 1
            assert np.all(np.diff(order)[np.diff(groups) == 0] > 0)
            assert np.all(np.diff(scores)[np.diff(groups) == 0] == 0)


def test_blocks_agree_with_the_complete_ranking_on_random_vectors():
    random = np.random.default_rng(1)
    queries, candidates = unit(random, 50, 64), unit(random, 3000, 64)
    candidates[1000:1100] = candidates[:100]
    top = rank_top(queries, candidates, 100, elements=64 * 257)
    for (order, _), rows in zip(rank_global(queries, candidates), top.rows, strict=True):
        np.testing.assert_array_equal(rows, order[:100])


@pytest.mark.parametrize("direction", [1, -1])
def test_candidates_in_order_of_their_scores_do_not_flood_the_lists(direction):
    """Every candidate is better than all before it: the worst order there is."""
    candidates = np.linspace(0, 1, 5000, dtype=np.float32)[::direction, None]
    top = rank_top(np.ones((30, 1), np.float32), np.ascontiguousarray(candidates), 4)
    best = np.arange(5000)[::-direction][:4]
    np.testing.assert_array_equal(top.rows, np.tile(best, (30, 1)))


def test_watched_scores_are_those_of_the_product(monkeypatch):
    monkeypatch.setattr(top_candidates, "QUERIES", 4)
    random = np.random.default_rng(2)
    queries, candidates = exact(random, 11), exact(random, 300)
    candidates[200] = candidates[3]
    query, row = random.integers(0, 11, 500), random.integers(0, 300, 500)
    row[:5] = 200
    top = rank_top(queries, candidates, 3, watch=(query, row), elements=100)
    np.testing.assert_array_equal(top.watched, (queries @ candidates.T)[query, row])
    with pytest.raises(ValueError, match="candidate rows below 300"):
        rank_top(queries, candidates, 3, watch=(query, row + 1))


def test_low_precision_products_of_the_process_are_not_used():
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with top_candidates.full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_cannot_be_ranked_is_one_error():
    good = np.ones((3, 4), np.float32)
    bad = good.copy()
    bad[2, 1] = np.inf
    with pytest.raises(ValueError, match="candidates: row 2 is not finite"):
        rank_top(good, bad, 2)
    with pytest.raises(ValueError, match="queries: row 2 is not finite"):
        rank_top(bad, good, 2)
    with pytest.raises(ValueError, match="count: got 0"):
        rank_top(good, good, 0)


LIMITED = """
import resource, sys
import numpy as np
from umer1.evaluation.scores import scoring
from umer1.evaluation.scores.top_candidates import rank_top
random = np.random.default_rng(0)
queries = random.standard_normal((400, 8), dtype=np.float32)
candidates = np.load(sys.argv[1], mmap_mode="r")
names = range(len(candidates))
infos = [{"cand_names": [], "label_name": 7 * n} for n in range(400)]
lines = open("/proc/self/status").read().splitlines()
used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + (400 << 20), resource.RLIM_INFINITY))
scored = scoring.score_vectors(infos, names, queries, candidates, "global")
print(len(scored.predictions), scored.notes[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA is Linux's")
def test_scores_of_800_mb_are_ranked_within_400_mb(tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "c.npy", random.standard_normal((500_000, 8), dtype=np.float32))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "c.npy")]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("400 the best 100 of 500000 candidates were ranked")


def _pairs(top):
    return list(zip(top.rows, top.scores, strict=True))
