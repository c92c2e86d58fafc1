"""Best and total of each candidate's negatives, over chunks of rows.

Tiles of rows make partial pools; a second kernel merges them in the order of the rows.
Legend: R rows of this chunk, C candidates, T tiles of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.buffers import empty_rows
from umer1_kernels.backends.triton.launch import PINNED
from umer1_kernels.backends.triton.masks import direction, live_rows, padded
from umer1_kernels.execution.protocol import Block, Pools


def column_pools(logits: Tensor, block: Block, pools: Pools, first_row: int = 0) -> None:
    """Add rows [first_row, first_row + R) of the block to its candidates' pools.

    Args:
        logits: [R, C] from `products.logits`; rows that are not live may hold anything.
        pools: best and total [C]; the chunk at row 0 starts them.
    """
    rows, columns = logits.shape
    tile = tables.row_tile("column_pools", logits)
    tiles = -(-rows // tile.rows)
    best, total = (empty_rows(logits, tiles, columns, logits.dtype) for _ in range(2))
    column_blocks = -(-columns // tile.columns)
    column_partials_kernel[(column_blocks, tiles)](
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
        best,
        total,
        best.stride(0),
        HAS_IDS=block.row_id is not None,
        HAS_LIVE=block.live is not None,
        ROWS=tile.rows,
        STEP=tile.step,
        COLUMNS=tile.columns,
        num_warps=tile.warps,
        **PINNED,
    )
    merge_partials_kernel[(column_blocks,)](
        best,
        total,
        best.stride(0),
        block.scale,
        tiles,
        columns,
        pools.best,
        pools.total,
        FIRST=first_row == 0,
        COLUMNS=tile.columns,
        num_warps=tile.warps,
        **PINNED,
    )


@triton.jit(
    do_not_specialize=["stride", "first_row", "rows", "columns", "part_stride"],
    do_not_specialize_on_alignment=[
        "scale", "excluded", "row_id", "candidate_id", "live",
    ],
)  # fmt: skip
def column_partials_kernel(
    logits,  # [R, C]
    stride,  # a multiple of 16 numbers
    scale,
    excluded,  # [R + first_row]
    row_id,
    candidate_id,  # [C]
    live,
    first_row,
    rows,
    columns,
    best,  # [T, C], times the sign of the scale
    total,  # [T, C]
    part_stride,
    HAS_IDS: tl.constexpr,
    HAS_LIVE: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < columns
    counting = live_rows(live, first_row, rows, HAS_LIVE)
    sign, power = direction(scale)
    stride = stride.to(tl.int64) // 16 * 16
    if HAS_IDS:
        ids = tl.load(candidate_id + column, mask=is_column, other=0)

    element = logits.dtype.element_ty
    top = tl.full((COLUMNS,), float("-inf"), element)
    part = tl.zeros((COLUMNS,), element)
    first = tl.program_id(1) * ROWS
    for begin in range(first, tl.minimum(first + ROWS, counting), STEP):
        local = begin + tl.arange(0, STEP)
        counts = local < counting
        row = first_row + local
        own = tl.load(excluded + row, mask=counts, other=-1)
        readable = counts[:, None] & (column < padded(columns))[None, :]
        pointers = logits + local.to(tl.int64)[:, None] * stride + column[None, :]
        value = tl.load(pointers, mask=readable, other=0.0) * sign
        negative = readable & is_column[None, :] & (column[None, :] != own[:, None])
        if HAS_IDS:
            negative &= ids[None, :] != tl.load(row_id + row, mask=counts, other=0)[:, None]
        value = tl.where(negative, value, float("-inf"))
        higher = tl.maximum(top, tl.max(value, axis=0))
        exponent = tl.where(negative, (value - higher[None, :]) * power, 0.0)
        term = tl.where(negative, tl.exp2(exponent), 0.0)
        # a column without a negative so far has nothing to shrink
        shift = tl.where(top == float("-inf"), 0.0, (top - higher) * power)
        part = tl.exp2(shift) * part + tl.sum(term, axis=0)
        top = higher

    place = tl.program_id(1).to(tl.int64) * (part_stride // 16 * 16) + column
    tl.store(best + place, top, mask=column < padded(columns))
    tl.store(total + place, part, mask=column < padded(columns))


@triton.jit(
    do_not_specialize=["part_stride", "tiles", "columns"],
    do_not_specialize_on_alignment=["scale", "best", "total"],
)
def merge_partials_kernel(
    part_best,  # [T, C], times the sign of the scale
    part_total,
    part_stride,
    scale,
    tiles,
    columns,
    best,  # [C]
    total,
    FIRST: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < columns
    sign, power = direction(scale)
    element = best.dtype.element_ty
    if FIRST:
        top = tl.full((COLUMNS,), float("-inf"), element)
        sum_ = tl.zeros((COLUMNS,), element)
    else:
        top = tl.load(best + column, mask=is_column, other=0.0) * sign
        sum_ = tl.load(total + column, mask=is_column, other=0.0)
    part_stride = part_stride.to(tl.int64) // 16 * 16
    for tile in range(tiles):
        place = tile * part_stride + column
        readable = column < padded(columns)
        other_top = tl.load(part_best + place, mask=readable, other=0.0)
        other = tl.load(part_total + place, mask=readable, other=0.0)
        higher = tl.maximum(top, other_top)
        shift = tl.where(top == float("-inf"), 0.0, (top - higher) * power)
        other_shift = tl.where(other_top == float("-inf"), 0.0, (other_top - higher) * power)
        sum_ = tl.exp2(shift) * sum_ + tl.exp2(other_shift) * other
        top = higher
    tl.store(best + column, top * sign, mask=is_column)
    tl.store(total + column, sum_, mask=is_column)
