"""Rank, gap and threshold share of each row of similarities, one program per row.

Legend: R rows, C candidates, G rollouts per pair. The positives of row i are the G candidates of
its own pair. A tie between a positive and a negative goes to the negative, one between positives to
the lower column.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.launch import PINNED, on_device


def scores(
    similarity: Tensor,
    row_valid: Tensor,
    candidate_valid: Tensor,
    threshold: Tensor,
    group_size: int,
    first_group: int,
) -> tuple[Tensor, Tensor, Tensor]:
    similarity = similarity.contiguous()
    rows, candidates = similarity.shape
    rank, gap, share = (similarity.new_empty(rows) for _ in range(3))
    tile = tables.row_tile("reward", similarity)
    with on_device(similarity):
        scores_kernel[(rows,)](
            similarity,
            row_valid.contiguous(),
            candidate_valid.contiguous(),
            threshold,
            candidates,
            group_size,
            first_group,
            rank,
            gap,
            share,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
            **PINNED,
        )
    return rank, gap, share


@triton.jit(
    do_not_specialize=["candidates", "group_size", "first_group"],
    do_not_specialize_on_alignment=["similarity", "row_valid", "candidate_valid", "threshold"],
)
def scores_kernel(
    similarity,  # [R, C]
    row_valid,  # bool [R]
    candidate_valid,  # bool [C]
    threshold,
    candidates,
    group_size,
    first_group,  # the pair of row 0
    rank,
    gap,
    share,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0)
    data = similarity + row.to(tl.int64) * candidates
    limit = tl.load(threshold)
    first = (row // group_size + first_group) * group_size
    last = first + group_size
    element = similarity.dtype.element_ty

    # lanes add up their own columns: positives and negatives, how many there are and reach the limit
    sums = tl.zeros((2, COLUMNS), element)
    counts = tl.zeros((2, COLUMNS), tl.int32)
    reached = tl.zeros((2, COLUMNS), tl.int32)
    side = tl.arange(0, 2)[:, None]
    for begin in range(0, candidates, COLUMNS):
        column = (begin + tl.arange(0, COLUMNS))[None, :]
        inside = column < candidates
        value = tl.load(data + column, mask=inside, other=0.0)
        valid = tl.load(candidate_valid + column, mask=inside, other=0) != 0
        own = (column >= first) & (column < last)
        mine = valid & (own == (side == 0))
        sums += tl.where(mine, value, 0.0)
        counts += mine.to(tl.int32)
        reached += (mine & (value >= limit)).to(tl.int32)
    is_positive = tl.arange(0, 2) == 0
    sums, counts, reached = tl.sum(sums, axis=1), tl.sum(counts, axis=1), tl.sum(reached, axis=1)
    positives = tl.sum(tl.where(is_positive, counts, 0))
    negatives = tl.sum(counts) - positives

    in_top = 0
    end = tl.where(negatives > 0, last, first)
    for positive in range(first, end):
        own_value = tl.load(data + positive)
        ahead = tl.zeros((COLUMNS,), tl.int32)
        for begin in range(0, candidates, COLUMNS):
            column = begin + tl.arange(0, COLUMNS)
            inside = column < candidates
            value = tl.load(data + column, mask=inside, other=0.0)
            valid = tl.load(candidate_valid + column, mask=inside, other=0) != 0
            behind_on_tie = (column >= positive) & (column < last)
            before = (value > own_value) | ((value == own_value) & ~behind_on_tie)
            ahead += (valid & before).to(tl.int32)
        counted = tl.load(candidate_valid + positive) != 0
        in_top += (counted & (tl.sum(ahead) < positives)).to(tl.int32)

    scored = (tl.load(row_valid + row) != 0) & (positives > 0) & (negatives > 0)
    number = tl.maximum(counts, 1).to(element)
    mean = sums / number
    above = reached.to(element) / number
    right = tl.where(is_positive, above, 1.0 - above)
    in_top_share = in_top.to(element) / tl.maximum(positives, 1).to(element)
    tl.store(rank + row, tl.where(scored, in_top_share, 0.0))
    difference = tl.sum(tl.where(is_positive, mean, -mean))
    tl.store(gap + row, tl.where(scored, difference, 0.0))
    tl.store(share + row, tl.where(scored, tl.sum(right) / 2, 0.0))
