"""The best candidates of every query when the scores of all of them do not fit in memory.

Candidates are read once, block by block (a memory-mapped array stays on disk), multiplied with all
queries, and only scores above a query's k-th best so far are looked at. What is held: the queries,
one block of candidates, one block of scores, k rows and scores per query.

Ties are "stable" (ranking.py): equal scores keep the order of the candidates, identical vectors
have equal scores. numpy's default order of ties (upstream) cannot be had this way: it depends on
the whole row of scores.
Shapes: N queries, C candidates, D dimension, P watched pairs.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umer1.evaluation.scores.identical import Copies, check_finite, find_copies
from umer1.evaluation.scores.ranking import check_shapes

# scores at a time: QUERIES x as many candidates as make 128 MiB of them, or of their vectors
QUERIES, ELEMENTS = 1024, 1 << 25
# entries that may come into the lists at once, as a multiple of the lists: more are taken in halves
ENTRANTS = 4


@dataclass(frozen=True, slots=True)
class Top:
    """rows: int64 [N, k], best first, -1 after the last candidate. scores: float32 [N, k], -inf
    there. watched: float32 [P], the scores of the watched pairs.
    """

    rows: np.ndarray
    scores: np.ndarray
    watched: np.ndarray


def rank_top(
    queries: np.ndarray,
    candidates: np.ndarray,
    count: int,
    *,
    device=None,
    watch: tuple[np.ndarray, np.ndarray] | None = None,
    elements: int = ELEMENTS,
) -> Top:
    """The `count` best candidates of every query, float32 [N, D] x [C, D].

    device: None is the CPU. watch: (query rows, candidate rows), int64 [P] each, of pairs whose
    score is wanted wherever it ranks. elements: numbers in a block, of scores and of vectors.
    """
    if count < 1:
        raise ValueError(f"count: got {count}, need at least 1")
    check_shapes(queries, candidates)
    check_finite(queries, "queries")
    copies = find_copies(candidates, "candidates")
    device = torch.device(device or "cpu")
    lists = [_Lists(part, count, device) for part in _query_blocks(queries, device)]
    watched = _Watched(watch, copies, len(candidates))
    with full_precision():
        for start, block in _candidate_blocks(candidates, queries.shape, elements):
            vectors = torch.from_numpy(block).to(device)
            skipped = _copies_inside(copies, start, len(block), device)
            for number, part in enumerate(lists):
                scores = _product(part.queries, vectors)
                watched.collect(scores, number * QUERIES, start)
                scores[:, skipped] = -torch.inf
                part.take(scores, start)
    rows, scores = (
        torch.cat([getattr(part, name) for part in lists]).cpu().numpy()
        for name in ("rows", "scores")
    )
    return Top(*_with_copies(rows, scores, copies, len(candidates)), watched.scores)


class _Lists:
    """The best so far of a block of queries: rows int64 [Q, k], scores float32 [Q, k]."""

    def __init__(self, queries: Tensor, count: int, device: torch.device):
        self.queries = queries
        shape = (len(queries), count)
        self.rows = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.scores = torch.full(shape, -torch.inf, dtype=torch.float32, device=device)

    def take(self, scores: Tensor, start: int) -> None:
        """Let the candidates of a block in: scores [Q, B], of rows start, start + 1, …

        Blocks come in candidate order, so an equal score that comes later stays behind.
        """
        better = scores > self.scores[:, -1:]
        width, entrants = scores.shape[1], _count(better)
        if not entrants:
            return
        if entrants > ENTRANTS * self.rows.numel() and width > 1:
            half = width // 2
            self.take(scores[:, :half], start)
            self.take(scores[:, half:], start + half)
            return
        query, column = better.nonzero(as_tuple=True)
        size, count = self.rows.shape
        listed = torch.arange(size, device=query.device).repeat_interleave(count)
        query = torch.cat([listed, query])
        rows = torch.cat([self.rows.flatten(), column + start])
        values = torch.cat([self.scores.flatten(), scores[query[listed.numel() :], column]])
        # by query, then by score, then as they came: stable sorts from the last key to the first
        order = values.argsort(descending=True, stable=True)
        order = order[query[order].argsort(stable=True)]
        first = torch.bincount(query, minlength=size).cumsum(0).roll(1)
        first[0] = 0
        kept = order[first[:, None] + torch.arange(count, device=query.device)]
        self.rows, self.scores = rows[kept], values[kept]


class _Watched:
    """Scores of chosen (query, candidate) pairs, picked up as their blocks pass."""

    def __init__(self, pairs, copies: Copies, candidates: int):
        query, row = pairs if pairs is not None else (np.zeros(0, np.int64),) * 2
        if len(query) != len(row) or (len(row) and not 0 <= row.min() <= row.max() < candidates):
            raise ValueError(f"watch: need pairs of query and candidate rows below {candidates}")
        # a copy has the score of its original
        self.query, self.row = np.asarray(query), copies.original(np.asarray(row))
        self.scores = np.full(len(query), -np.inf, dtype=np.float32)
        self.by_row = np.argsort(self.row, kind="stable")

    def collect(self, scores: Tensor, first_query: int, first_row: int) -> None:
        low, high = np.searchsorted(
            self.row, (first_row, first_row + scores.shape[1]), sorter=self.by_row
        )
        pairs = self.by_row[low:high]
        inside = self.query[pairs] - first_query
        chosen = (inside >= 0) & (inside < len(scores))
        pairs, inside = pairs[chosen], inside[chosen]
        if len(pairs):
            places = (inside, self.row[pairs] - first_row)
            index = tuple(torch.from_numpy(place).to(scores.device) for place in places)
            self.scores[pairs] = scores[index].cpu().numpy()


def _query_blocks(queries, device) -> Iterator[Tensor]:
    for start in range(0, len(queries), QUERIES):
        part = np.ascontiguousarray(queries[start : start + QUERIES])
        yield torch.from_numpy(part).to(device)


def _candidate_blocks(candidates, shape, elements) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of rows, copied out of what may be a file on disk."""
    step = max(1, elements // max(min(shape[0], QUERIES), shape[1]))
    for start in range(0, len(candidates), step):
        yield start, np.array(candidates[start : start + step])


def _product(queries: Tensor, vectors: Tensor) -> Tensor:
    if queries.device.type == "cpu":
        # numpy's product, so that few and many candidates are scored alike
        return torch.from_numpy(np.dot(queries.numpy(), vectors.numpy().T))
    return queries @ vectors.T


def _count(mask: Tensor) -> int:
    # numpy counts several times faster than torch on the CPU
    return int(np.count_nonzero(mask.numpy()) if mask.device.type == "cpu" else mask.sum())


def _copies_inside(copies, start, size, device) -> Tensor:
    low, high = np.searchsorted(copies.rows, (start, start + size))
    return torch.from_numpy(copies.rows[low:high] - start).to(device)


def _with_copies(rows, scores, copies, candidates):
    """Put the copies beside their originals. The k best of all are among the k best originals and
    their copies, because an original comes before its copies.
    """
    if not len(copies):
        return rows, scores
    sizes = np.bincount(copies.first, minlength=candidates)
    groups = copies.rows[np.argsort(copies.first, kind="stable")]
    ends = np.cumsum(sizes)
    for number in np.flatnonzero((sizes[rows] * (rows >= 0)).any(axis=1)):
        here = rows[number][rows[number] >= 0]
        extra = [groups[ends[row] - sizes[row] : ends[row]] for row in here]
        every = np.concatenate([here, *extra])
        values = scores[number][: len(here)]
        values = np.concatenate([values, np.repeat(values, [len(part) for part in extra])])
        best = np.lexsort((every, -values))[: rows.shape[1]]
        rows[number, : len(best)], scores[number, : len(best)] = every[best], values[best]
    return rows, scores


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever the process has set (no TF32, no bfloat16)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
