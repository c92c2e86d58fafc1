"""The best rows of a search: candidates from FAISS, then exact scores from the stored vectors.

    disc, gen   the cosine of query and item in that mode
    fused       the mean of the two cosines, which is the cosine of disc and gen laid end to end

Equal scores come in row order. A score does not depend on the type of index, on the other queries,
or on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from umer1.retrieval.exact import View, exact_candidates, exact_scores
from umer1.retrieval.files import Stored

SEARCH_MODES = ("disc", "gen", "fused")
# more than asked for: rounding may change the order of neighbours, and ties go by row
SPARE = 16
# by how much a product in float32 may differ from the exact score
ROUNDING = 1e-5


def view_of(queries: Mapping[str, np.ndarray], mode: str) -> tuple[View, bool]:
    """What `mode` compares, and whether that crosses from disc queries to gen items or back."""
    if mode == "fused":
        missing = [name for name in ("disc", "gen") if name not in queries]
        if missing:
            raise ValueError(f"queries: mode 'fused' wants disc and gen, {missing[0]} is missing")
        return [(name, queries[name], 0.5) for name in ("disc", "gen")], False
    if mode in queries:
        return [(mode, queries[mode], 1.0)], False
    other = "disc" if mode == "gen" else "gen"
    return [(mode, queries[other], 1.0)], True


def best_rows(
    stored: Stored, structures: Mapping, view: View, k: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per query (rows int64 [c], scores float32 [c]), best first; c is k or what there is.

    structures: mode -> what knows candidates of the first rows (umer1.retrieval.structures).
    """
    count, total = k + SPARE, int(stored.alive.sum())
    queries = len(view[0][1])
    results: list = [None] * queries
    open_queries = np.arange(queries)
    while len(open_queries):
        part = [(mode, vectors[open_queries], weight) for mode, vectors, weight in view]
        candidates = _candidates(stored, structures, part, count)
        undecided = []
        for place, (rows, floor) in enumerate(candidates):
            scores = exact_scores(stored, part, place, rows)
            order = np.lexsort((rows, -scores))[:k]
            results[open_queries[place]] = rows[order], scores[order]
            # rows that were left out reach the floor at most
            if len(order) == k and count < total and floor > scores[order[-1]] - ROUNDING:
                undecided.append(place)
        open_queries, count = open_queries[undecided], 4 * count
    return results


def _candidates(stored, structures, view, count):
    """Per query (rows, the best exact score that a row left out by exact search can have)."""
    modes = [mode for mode, _, _ in view]
    covered = min((structures[mode].rows if mode in structures else 0) for mode in modes)
    scores, rows = exact_candidates(stored, view, count, covered)
    floors = scores.min(axis=1) if scores.shape[1] else np.full(len(scores), -np.inf)
    if not covered:
        return list(zip(rows, floors, strict=True))
    found = [structures[mode].candidates(queries, count) for mode, queries, _ in view]
    # what a structure leaves out has no bound
    return [
        (_distinct(stored, [own[rows_of_query] for own in (rows, *found)]), -np.inf)
        for rows_of_query in range(len(rows))
    ]


def _distinct(stored, groups):
    rows = np.unique(np.concatenate(groups))
    rows = rows[rows >= 0]
    return rows[stored.alive[rows]]
