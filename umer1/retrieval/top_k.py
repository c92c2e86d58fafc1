"""Exact top k by dot product on the CPU.

Shapes: m queries, n vectors, d dimension.
"""

import numpy as np

# scores held at a time: 64 MiB of float32
BLOCK = 1 << 24


def top_k(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [m, d] x [n, d] -> rows int64 and scores float32, both [m, min(k, n)], best first.

    Equal scores come in row order, so that a result does not depend on the machine.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, need at least 1")
    k = min(k, len(vectors))
    rows = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    step = max(1, BLOCK // max(len(vectors), 1))
    for start in range(0, len(queries), step):
        block = queries[start : start + step] @ vectors.T
        for number, row in enumerate(block, start):
            rows[number] = _best(row, k)
            scores[number] = row[rows[number]]
    return rows, scores


def _best(scores, k):
    # all scores at least as good as the k-th, then a stable sort: ties at the edge go by row
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= threshold)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
