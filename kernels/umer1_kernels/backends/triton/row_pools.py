"""Best, total and moment of each row's negatives, in one reading of the logits.

Every lane keeps its own running maximum, so a row is read without waiting for the other lanes.
Legend: R rows of this chunk, C candidates; powers are of two, with log2(e) folded into the scale.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.launch import PINNED
from umer1_kernels.backends.triton.masks import LN_2, direction, live_rows, padded
from umer1_kernels.execution.protocol import Block, Pools

WIDTH = 4  # columns of a lane: 16 bytes of float32


def empty_pools(block: Block, moment: bool) -> Pools:
    """Room for the pools of all rows of the block."""
    count = block.rows.shape[0]
    return Pools(*(block.scale.new_empty(count) if wanted else None for wanted in (1, 1, moment)))


def row_pools(logits: Tensor, block: Block, pools: Pools, first_row: int = 0) -> None:
    """Write the pools of rows [first_row, first_row + R) of the block.

    Args:
        logits: [R, C] from `products.logits`; rows that are not live may hold anything.
    """
    rows, columns = logits.shape
    has_ids = block.row_id is not None
    tile = tables.row_tile("row_pools_short", logits)
    if has_ids:
        tile = tables.row_tile("row_pools_ids", logits)
    elif columns > tile.columns:
        tile = tables.row_tile("row_pools", logits)
    row_pools_kernel[(-(-rows // tile.rows),)](
        logits,
        logits.stride(0),
        block.scale,
        block.excluded,
        block.row_id,
        block.candidate_id,
        block.live,
        first_row,
        rows,
        columns,
        *pools,
        HAS_IDS=has_ids,
        HAS_LIVE=block.live is not None,
        MOMENT=pools.moment is not None,
        ROWS=tile.rows,
        LANES=tile.columns // WIDTH,
        WIDTH=WIDTH,
        num_warps=tile.warps,
        **PINNED,
    )


@triton.jit(
    do_not_specialize=["stride", "first_row", "rows", "columns"],
    do_not_specialize_on_alignment=[
        "scale", "excluded", "row_id", "candidate_id", "live", "best", "total", "moment",
    ],
)  # fmt: skip
def row_pools_kernel(
    logits,  # [R, C]
    stride,  # a multiple of 16 numbers
    scale,
    excluded,  # [R + first_row]; so are row_id, best, total and moment
    row_id,
    candidate_id,  # [C]
    live,
    first_row,
    rows,
    columns,
    best,
    total,
    moment,
    HAS_IDS: tl.constexpr,
    HAS_LIVE: tl.constexpr,
    MOMENT: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    local = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    counting = live_rows(live, first_row, rows, HAS_LIVE)
    counts = local < counting
    row = first_row + local
    sign, power = direction(scale)
    own = tl.load(excluded + row, mask=counts, other=-1)
    base = logits + (local.to(tl.int64) * (stride // 16 * 16))[:, None, None]
    lane = tl.arange(0, LANES)[None, :, None] * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    if HAS_IDS:
        own_id = tl.load(row_id + row, mask=counts, other=0)

    element = logits.dtype.element_ty
    top = tl.full((ROWS, LANES), float("-inf"), element)  # sign * x
    part = tl.zeros((ROWS, LANES), element)
    slope = tl.zeros((ROWS, LANES), element)
    # a program without a live row reads nothing
    end = tl.where(tl.program_id(0) * ROWS < counting, columns, 0)
    for begin in range(0, end, LANES * WIDTH):
        column = begin + lane
        readable = counts[:, None, None] & (column < padded(columns))
        value = tl.load(base + column, mask=readable, other=0.0) * sign
        negative = readable & (column < columns) & (column != own[:, None, None])
        if HAS_IDS:
            ids = tl.load(candidate_id + column, mask=column < columns, other=0)
            negative &= ids != own_id[:, None, None]
        value = tl.where(negative, value, float("-inf"))
        higher = tl.maximum(top, tl.max(value, axis=2))
        exponent = tl.where(negative, (value - higher[:, :, None]) * power, 0.0)
        term = tl.where(negative, tl.exp2(exponent), 0.0)
        # a lane without a negative so far has nothing to shrink
        shift = tl.where(top == float("-inf"), 0.0, (top - higher) * power)
        shrink = tl.exp2(shift)
        if MOMENT:
            slope = shrink * (slope + shift * part) + tl.sum(term * exponent, axis=2)
        part = shrink * part + tl.sum(term, axis=2)
        top = higher

    highest = tl.max(top, axis=1)
    shift = tl.where(top == float("-inf"), 0.0, (top - highest[:, None]) * power)
    shrink = tl.exp2(shift)
    is_row = local < rows
    tl.store(best + row, tl.where(counts, highest * sign, 0.0), mask=is_row)
    tl.store(total + row, tl.sum(shrink * part, axis=1), mask=is_row)
    if MOMENT:
        in_powers = tl.sum(shrink * (slope + shift * part), axis=1)
        tl.store(moment + row, in_powers * LN_2, mask=is_row)
