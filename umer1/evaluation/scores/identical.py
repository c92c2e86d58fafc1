"""Rows with identical vectors, found while streaming over an array that may not fit in memory.

A matrix product gives two identical columns scores that differ in the last bit, depending on where
they stand (seen with OpenBLAS and MKL for few queries, and in every matrix-vector product). A rule
for ties that holds on every machine therefore needs to know which vectors are identical.
Shapes: C rows, D dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

# elements read at a time: 4 MiB of float32
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows that repeat an earlier one. rows: int64 [K], ascending. first: int64 [K], for each the
    first row with the same vector.
    """

    rows: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def original(self, rows: np.ndarray) -> np.ndarray:
        """For each of int64 rows the first row with the same vector: itself if it is no copy."""
        if not len(self):
            return rows
        place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[place] == rows, self.first[place], rows)


def find_copies(vectors: np.ndarray, name: str) -> Copies:
    """Copies among the rows of float32 [C, D]; 0.0 and -0.0 are the same number.

    Raises ValueError, naming `name` and the row, when a number is not finite.
    """
    for seed in count():
        hashes = _hashes(vectors, name, seed)
        # stable: rows of one hash stay in their order, so the first of a run is the earliest
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        repeats = np.zeros(len(order), dtype=bool)
        np.equal(hashes[1:], hashes[:-1], out=repeats[1:])
        places = np.flatnonzero(repeats)
        # the start of the run a repeat stands in: the last place before it that repeats nothing
        starts = np.flatnonzero(~repeats) if len(places) else places
        runs = starts[np.searchsorted(starts, places) - 1]
        rows, first = order[places], order[runs]
        if _all_equal(vectors, rows, first):
            by_row = np.argsort(rows)
            return Copies(rows[by_row], first[by_row])


def check_finite(vectors: np.ndarray, name: str) -> None:
    """Raise ValueError for the first row of float32 [C, D] with a number that is not finite."""
    for start, part in _parts(vectors):
        _check_part(part, start, name)


def _hashes(vectors, name, seed):
    """uint64 [C]: a random linear form of the bits modulo 2^64: no order of summation changes it."""
    random = np.random.default_rng(seed)
    weights = random.integers(0, 2**64, vectors.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for start, part in _parts(vectors):
        _check_part(part, start, name)
        bits = (part + np.float32(0)).view(np.uint32).astype(np.uint64)
        bits *= weights
        bits.sum(axis=1, out=hashes[start : start + len(part)])
    return hashes


def _all_equal(vectors, rows, others):
    step = max(1, CHUNK // max(1, vectors.shape[1]))
    return all(
        np.array_equal(vectors[rows[start : start + step]], vectors[others[start : start + step]])
        for start in range(0, len(rows), step)
    )


def _parts(vectors) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, CHUNK // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        yield start, np.ascontiguousarray(vectors[start : start + step])


def _check_part(part, start, name):
    finite = np.isfinite(part).all(axis=1)
    if not finite.all():
        row = start + int(np.flatnonzero(~finite)[0])
        raise ValueError(f"{name}: row {row} is not finite, it cannot be ranked")
