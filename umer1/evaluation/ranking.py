"""From vectors to ranked candidates, as MMEB-V2 does it: float32 dot products, then argsort of the
negated scores.

Ties are real (duplicate captions, identical videos). numpy's default argsort orders them by SIMD
path, so it can differ between machines; `ties="stable"` keeps candidate order and is reproducible,
`ties="upstream"` is numpy's default, what published scores used.
Shapes: N queries, C candidates, D dimension.
"""

from collections.abc import Collection, Sequence

import numpy as np

SORTS = {"stable": "stable", "upstream": None}


def rank_global(
    queries: np.ndarray, candidates: np.ndarray, *, ties: str = "stable"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rank all candidates for every query, float32 [N, D] x [C, D].

    Per query: candidate rows, best first, int64 [C], and their scores, float32 [C].
    """
    kind = _kind(ties)
    _check(queries, candidates)
    scores = np.dot(queries, candidates.T)
    order = np.argsort(-scores, axis=1, kind=kind)
    return list(zip(order, np.take_along_axis(scores, order, axis=1), strict=True))


def rank_local(
    queries: np.ndarray, candidates: np.ndarray, rows: Sequence[np.ndarray], *, ties: str = "stable"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rank each query's own candidates: rows[i] are int64 indices into `candidates`. Returns as
    rank_global.
    """
    kind = _kind(ties)
    _check(queries, candidates)
    if len(rows) != len(queries):
        raise ValueError(f"rows: got {len(rows)} candidate lists for {len(queries)} queries")
    ranked = []
    for query, own in zip(queries, rows, strict=True):
        scores = np.dot(query, candidates[own].T)
        order = np.argsort(-scores, kind=kind)
        ranked.append((own[order], scores[order]))
    return ranked


def label_tied(names: Sequence, scores: np.ndarray, labels: Collection) -> bool:
    """Whether a wrong candidate scores exactly as high as the best right one: the rank then hangs
    on their order.

    names: ranked candidates; scores float32 [C]. Collapsed vectors tie everything, and where the
    label is candidate 0 a stable sort would turn that into a perfect score: a report must be able
    to show it.
    """
    best = next((score for name, score in zip(names, scores, strict=True) if name in labels), None)
    if best is None:
        return False
    return any(names[rank] not in labels for rank in np.flatnonzero(scores == best))


def _kind(ties):
    if ties not in SORTS:
        raise ValueError(f"ties: got {ties!r}, need one of {', '.join(SORTS)}")
    return SORTS[ties]


def _check(queries, candidates):
    for name, array in (("queries", queries), ("candidates", candidates)):
        if array.dtype != np.float32 or array.ndim != 2:
            raise ValueError(
                f"{name}: got {array.dtype} {list(array.shape)}, need float32 [rows, dimension]"
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise ValueError(
                f"{name}: row {bad[0]} is not finite ({bad.size} such rows), it cannot be ranked"
            )
    if queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"queries have dimension {queries.shape[1]}, candidates {candidates.shape[1]}"
        )
