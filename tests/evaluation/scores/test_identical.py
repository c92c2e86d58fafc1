"""Identical vectors are found, whatever their place, and only they."""

import numpy as np
import pytest

from umer1.evaluation.scores import identical
from umer1.evaluation.scores.identical import check_finite, find_copies


def expected(vectors):
    first, pairs = {}, []
    for row, vector in enumerate(vectors + np.float32(0)):
        pairs.append((row, first.setdefault(vector.tobytes(), row)))
    return [(row, earlier) for row, earlier in pairs if row != earlier]


@pytest.mark.parametrize(("rows", "distinct"), [(1, 1), (63, 5), (760, 1), (199, 199), (2000, 900)])
def test_copies_point_at_the_first_of_their_kind(monkeypatch, rows, distinct):
    monkeypatch.setattr(identical, "CHUNK", 100)
    random = np.random.default_rng(rows)
    vectors = random.standard_normal((distinct, 7)).astype(np.float32)
    vectors[:, 0] = 0.0
    vectors = vectors[random.integers(0, distinct, rows)]
    vectors[::2, 0] = -0.0
    copies = find_copies(vectors, "candidates")
    pairs = expected(vectors)
    assert list(zip(copies.rows.tolist(), copies.first.tolist(), strict=True)) == pairs
    originals = dict(pairs)
    every = np.arange(rows)
    assert copies.original(every).tolist() == [originals.get(row, row) for row in range(rows)]


def test_equal_hashes_of_different_vectors_are_no_copies(monkeypatch):
    hashes = identical._hashes
    seeds = []

    def collide(vectors, name, seed):
        seeds.append(seed)
        return hashes(vectors, name, seed) if seed else np.zeros(len(vectors), np.uint64)

    monkeypatch.setattr(identical, "_hashes", collide)
    vectors = np.array([[1.0], [2.0], [1.0]], np.float32)
    copies = find_copies(vectors, "candidates")
    assert (copies.rows.tolist(), copies.first.tolist()) == ([2], [0])
    assert seeds == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named(monkeypatch, bad):
    monkeypatch.setattr(identical, "CHUNK", 8)
    vectors = np.ones((50, 4), np.float32)
    vectors[37, 2] = bad
    for look in (find_copies, check_finite):
        with pytest.raises(ValueError, match="images: row 37 is not finite"):
            look(vectors, "images")
