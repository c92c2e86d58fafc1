"""Exact candidates by inner product: FAISS over blocks of stored rows.

Shapes: m queries, w numbers of a vector, c candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from umer1.retrieval.files import Stored
from umer1.retrieval.library import copy_into, faiss_library

# float32 numbers looked at together: 4 MiB stay in the cache, and their memory is used again
BLOCK_NUMBERS = 1 << 20
# FAISS multiplies float16 itself, which is faster than converting the rows for so few queries
FEW_QUERIES = 8


def exact_candidates(
    stored: Stored, space: str, queries: np.ndarray, count: int, first_row: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` best rows from `first_row` on, for queries float32 [m, w]: scores float32 and rows
    int64, both [m, c], in no order.

    c is `count` or the number of rows that are not deleted. Scores carry the rounding of float32
    products.
    """
    scores = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for block in _blocks(stored, space, first_row):
        found, places = _nearest(stored, space, block, queries, count)
        block_rows = np.arange(block.start, block.stop) if isinstance(block, slice) else block
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


def _nearest(stored, space, block, queries, count):
    """Scores [m, c] and places in the block [m, c]; c is `count` or the block's rows."""
    faiss = faiss_library()
    metric = faiss.METRIC_INNER_PRODUCT
    if stored.format.dtype == "float16" and len(queries) < FEW_QUERIES:
        halves = stored.numbers(space, block)
        index = faiss.IndexScalarQuantizer(
            stored.width(space), faiss.ScalarQuantizer.QT_fp16, metric
        )
        copy_into(index.codes, halves.view(np.uint8).reshape(-1))
        index.is_trained, index.ntotal = True, len(halves)
        return index.search(queries, min(count, len(halves)))
    vectors = stored.vectors(space, block)
    return faiss.knn(queries, vectors, min(count, len(vectors)), metric)


def _blocks(stored: Stored, space: str, first_row: int) -> Iterator[slice | np.ndarray]:
    """Stretches of rows, or row numbers int64 [b] where some of a stretch are deleted."""
    step = max(1, BLOCK_NUMBERS // stored.width(space))
    for start in range(first_row, stored.manifest.rows, step):
        alive = stored.alive[start : start + step]
        if alive.all():
            yield slice(start, start + len(alive))
        elif alive.any():
            yield start + np.flatnonzero(alive)
