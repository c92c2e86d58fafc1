"""Exact candidates by inner product: FAISS over blocks of stored rows.

Shapes: m queries, w numbers of a vector, c candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from umer1.retrieval.files import Stored
from umer1.retrieval.library import faiss_library

# float32 numbers of a block that has to be converted or put together: 64 MiB
BLOCK_NUMBERS = 1 << 24


def exact_candidates(
    stored: Stored, space: str, queries: np.ndarray, count: int, first_row: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best rows from `first_row` on, for queries float32 [m, w]: scores float32 and rows
    int64, both [m, c], in no order.

    c is `count` or the number of rows that are not deleted. Scores carry the rounding of float32
    products.
    """
    faiss = faiss_library()
    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for block_rows, vectors in _blocks(stored, space, first_row):
        found, places = faiss.knn(
            queries, vectors, min(count, len(vectors)), faiss.METRIC_INNER_PRODUCT
        )
        scores = np.concatenate([scores, found], axis=1)
        rows = np.concatenate([rows, block_rows[places]], axis=1)
        if scores.shape[1] > count:
            best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            scores = np.take_along_axis(scores, best, 1)
            rows = np.take_along_axis(rows, best, 1)
    return scores, rows


def exact_scores(stored: Stored, space: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 [c] of one query [w] against rows int64 [c], summed in float64.

    Row by row, so that a score depends neither on its neighbours nor on the machine's BLAS.
    """
    vectors = stored.vectors(space, rows).astype(np.float64)
    return np.einsum("cw,w->c", vectors, query.astype(np.float64)).astype(np.float32)


def _blocks(stored: Stored, space: str, first_row: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows int64 [b], vectors float32 [b, w]) of rows that are not deleted."""
    step = max(1, BLOCK_NUMBERS // stored.width(space))
    if stored.format.dtype == "float32" and space != "fused" and stored.alive[first_row:].all():
        # nothing to convert: the mapped file itself
        step = max(1, stored.manifest.rows)
    for start in range(first_row, stored.manifest.rows, step):
        stretch = slice(start, min(start + step, stored.manifest.rows))
        alive = stored.alive[stretch]
        if not alive.any():
            continue
        rows, vectors = np.arange(stretch.start, stretch.stop), stored.vectors(space, stretch)
        if not alive.all():
            rows, vectors = rows[alive], vectors[alive]
        yield rows, vectors
