"""From vectors to ranked candidates, as MMEB-V2 does it: float32 dot products, best first.

Ties are real (duplicate captions, identical videos), so their order is part of a score:

    stable     candidates with the same vector have the same score; equal scores keep the order of
               the candidates. The same on every machine, in any blocks.
    upstream   what VLM2Vec runs: one matrix product, or one matrix-vector product per query over
               its own candidates, and numpy's default argsort, whose order of equal scores depends
               on the processor. Matrix-vector products also give identical candidates scores that
               differ in the last bit.

These functions return complete rankings; top_candidates.py is for what does not fit in memory.
Shapes: N queries, C candidates, D dimension.
"""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from umer1.evaluation.scores.identical import Copies, check_finite, find_copies

SORTS = {"stable": "stable", "upstream": None}
# scores negated, sorted and held at a time beside the product: 32 MiB of float32
SORTED_AT_A_TIME = 1 << 23
# entries of the candidate lists taken together in one product, and the most it may compute in vain
LISTED_AT_A_TIME, WASTE = 1 << 16, 8

Ranked = tuple[np.ndarray, np.ndarray]


def rank_global(
    queries: np.ndarray, candidates: np.ndarray, *, ties: str = "stable", device=None
) -> list[Ranked]:
    """Rank all candidates for every query, float32 [N, D] x [C, D].

    Per query: candidate rows, best first, int64 [C], and their scores, float32 [C].
    device: where the product is computed; None is numpy on the CPU.
    """
    return list(iterate_global(queries, candidates, ties=ties, device=device))


def rank_local(
    queries: np.ndarray,
    candidates: np.ndarray,
    rows: Sequence[np.ndarray],
    *,
    ties: str = "stable",
    device=None,
) -> list[Ranked]:
    """Rank each query's own candidates: rows[i] are int64 indices into `candidates`. Returns as
    rank_global. With ties="upstream" numpy computes, whatever the device.
    """
    return list(iterate_local(queries, candidates, rows, ties=ties, device=device))


def iterate_global(queries, candidates, *, ties="stable", device=None) -> Iterator[Ranked]:
    """rank_global, one query after the other: only the scores [N, C] are held at once."""
    kind, copies = _kind(ties), _checked(queries, candidates, ties)
    scores = product(queries, candidates, device)
    if len(copies):
        scores[:, copies.rows] = scores[:, copies.first]
    step = max(1, SORTED_AT_A_TIME // max(1, len(candidates)))
    for start in range(0, len(queries), step):
        part = scores[start : start + step]
        order = np.argsort(-part, axis=1, kind=kind)
        yield from zip(order, np.take_along_axis(part, order, axis=1), strict=True)


def iterate_local(queries, candidates, rows, *, ties="stable", device=None) -> Iterator[Ranked]:
    """rank_local, one query after the other: only the scores of some queries are held at once."""
    kind, copies = _kind(ties), _checked(queries, candidates, ties)
    if len(rows) != len(queries):
        raise ValueError(f"rows: got {len(rows)} candidate lists for {len(queries)} queries")
    for start, stop in _spans([len(own) for own in rows]):
        lists = [np.asarray(own, dtype=np.int64) for own in rows[start:stop]]
        scored = (
            _each_alone(queries[start:stop], candidates, lists)
            if ties == "upstream"
            else _together(queries[start:stop], candidates, lists, copies, device)
        )
        for own, scores in zip(lists, scored, strict=True):
            order = np.argsort(-scores, kind=kind)
            yield own[order], scores[order]


def product(queries: np.ndarray, candidates: np.ndarray, device=None) -> np.ndarray:
    """Dot products float32 [N, C], in full float32 precision on every device."""
    if device is None:
        return np.dot(queries, candidates.T)
    import torch

    from umer1.evaluation.scores.top_candidates import full_precision

    with full_precision():
        left, right = (torch.from_numpy(np.ascontiguousarray(x)) for x in (queries, candidates))
        return (left.to(device) @ right.to(device).T).cpu().numpy()


def label_tied(names: Sequence, scores: np.ndarray, labels: Collection) -> bool:
    """Whether a wrong candidate scores exactly as high as the best right one: the rank then hangs
    on their order.

    names: ranked candidates; scores float32 [C]. Collapsed vectors tie everything, and where the
    label is candidate 0 a stable sort would turn that into a perfect score: a report must be able
    to show it.
    """
    right = np.fromiter((name in labels for name in names), dtype=bool, count=len(names))
    return bool(right.any() and (scores[~right] == scores[right].max()).any())


def _each_alone(queries, candidates, lists):
    return (np.dot(query, candidates[own].T) for query, own in zip(queries, lists, strict=True))


def _together(queries, candidates, lists, copies, device):
    """One product over the candidates the lists share; alone where they share too few."""
    lists = [copies.original(own) for own in lists]
    union, places = np.unique(np.concatenate(lists), return_inverse=True)
    if len(union) * len(lists) > WASTE * len(places):
        yield from (_alone(*pair, candidates, device) for pair in zip(queries, lists, strict=True))
        return
    scores = product(queries, candidates[union], device)
    start = 0
    for row, own in zip(scores, lists, strict=True):
        yield row[places[start : start + len(own)]]
        start += len(own)


def _alone(query, own, candidates, device):
    distinct, places = np.unique(own, return_inverse=True)
    return product(query[None], candidates[distinct], device)[0][places]


def _spans(lengths):
    """(start, stop) of runs of queries whose lists have about LISTED_AT_A_TIME entries together."""
    start, listed = 0, 0
    for number, length in enumerate(lengths):
        if listed and listed + length > LISTED_AT_A_TIME:
            yield start, number
            start, listed = number, 0
        listed += length
    if start < len(lengths):
        yield start, len(lengths)


def _checked(queries, candidates, ties) -> Copies:
    check_shapes(queries, candidates)
    check_finite(queries, "queries")
    if SORTS[ties] is not None:
        return find_copies(candidates, "candidates")
    check_finite(candidates, "candidates")
    nothing = np.zeros(0, dtype=np.int64)
    return Copies(nothing, nothing)


def _kind(ties):
    if ties not in SORTS:
        raise ValueError(f"ties: got {ties!r}, need one of {', '.join(SORTS)}")
    return SORTS[ties]


def check_shapes(queries: np.ndarray, candidates: np.ndarray) -> None:
    """Raise ValueError unless both are float32 [rows, dimension] of one dimension."""
    for name, array in (("queries", queries), ("candidates", candidates)):
        if array.dtype != np.float32 or array.ndim != 2:
            raise ValueError(
                f"{name}: got {array.dtype} {list(array.shape)}, need float32 [rows, dimension]"
            )
    if queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"queries have dimension {queries.shape[1]}, candidates {candidates.shape[1]}"
        )
