"""The best rows of a search: candidates from FAISS, then exact scores from the stored vectors.

    disc, gen   the cosine of query and item in that mode
    fused       the mean of the two cosines: one inner product of both vectors end to end

Equal scores come in row order. A score does not depend on the type of index, on the other queries,
or on the number of threads. Shapes: m queries, w numbers of a vector, c results.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from umer1.retrieval.exact import exact_candidates, exact_scores
from umer1.retrieval.files import Stored

SEARCH_MODES = ("disc", "gen", "fused")
# more than asked for: rounding may change the order of neighbours, and ties go by row
SPARE = 16
# by how much a product in float32 may differ from the exact score
ROUNDING = 1e-5


def compared(queries: Mapping[str, np.ndarray], mode: str) -> tuple[np.ndarray, bool]:
    """Queries float32 [m, w] for the vectors of `mode`, and whether they are of the other mode."""
    if mode == "fused":
        missing = [name for name in ("disc", "gen") if name not in queries]
        if missing:
            raise ValueError(f"queries: mode 'fused' wants disc and gen, {missing[0]} is missing")
        # halves of a power of two: the sum is the mean of the cosines, with no rounding of its own
        return np.concatenate([queries["disc"], queries["gen"]], axis=1) / 2, False
    if mode in queries:
        return queries[mode], False
    return queries["disc" if mode == "gen" else "gen"], True


def best_rows(
    stored: Stored, structure, space: str, queries: np.ndarray, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per query (rows int64 [c], scores float32 [c]), best first; c is k or what there is.

    structure: what knows candidates among the first rows (umer1.retrieval.structures), or None.
    """
    count, total = k + SPARE, int(stored.alive.sum())
    results: list = [None] * len(queries)
    left = np.arange(len(queries))
    while len(left):
        candidates = _candidates(stored, structure, space, queries[left], count)
        undecided = []
        for number, (rows, floor) in zip(left.tolist(), candidates, strict=True):
            scores = exact_scores(stored, space, queries[number], rows)
            order = np.lexsort((rows, -scores))[:k]
            results[number] = rows[order], scores[order]
            # rows that were left out reach the floor at most
            if len(order) == k and count < total and floor > scores[order[-1]] - ROUNDING:
                undecided.append(number)
        left, count = np.array(undecided, dtype=np.int64), 4 * count
    return results


def _candidates(stored, structure, space, queries, count):
    """Per query (rows, the best score that a row left out can have)."""
    covered = structure.rows if structure else 0
    scores, rows = exact_candidates(stored, space, queries, count, covered)
    if not structure:
        floors = scores.min(axis=1) if scores.shape[1] else np.full(len(rows), -np.inf)
        return list(zip(rows, floors, strict=True))
    near = structure.candidates(stored, queries, count)
    # what a structure leaves out has no bound
    return [
        (np.concatenate([later, own[own >= 0]]), -np.inf)
        for later, own in zip(rows, near, strict=True)
    ]
