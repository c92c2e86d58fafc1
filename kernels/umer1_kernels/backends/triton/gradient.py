"""The gradient of the logits, element by element, rounded once.

Legend: R rows of this chunk, C candidates; powers are of two, with log2(e) folded into the scale.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.launch import PINNED
from umer1_kernels.backends.triton.masks import LN_2, direction, live_rows, padded
from umer1_kernels.execution.protocol import Block, Pools


def logit_gradient(
    logits: Tensor,
    block: Block,
    rows: Pools,
    row: Tensor,
    label: Tensor,
    columns: Pools | None,
    column: Tensor | None,
    slope: Tensor | None,
    out: Tensor,
    first_row: int = 0,
) -> None:
    """Write the gradient of rows [first_row, first_row + R); see `Primitives.gradient`.

    Args:
        logits: [R, C] from `products.logits`; rows that are not live may hold anything.
        out: [R, C] from `empty_rows`; may be `logits`.
    """
    if not out.is_cuda and out.dtype == torch.bfloat16:  # the interpreter rounds to it downwards
        options = (rows, row, label, columns, column, slope)
        logit_gradient(logits, block, *options, logits, first_row)
        out.copy_(logits)
        return
    count, width = logits.shape
    tile = tables.row_tile("gradient", logits)
    column_best = None if column is None else columns.best
    vectors = (rows.best, row, label, slope, column_best, column)
    vectors = (None if vector is None else vector.contiguous() for vector in vectors)
    gradient_kernel[(-(-count // tile.rows), -(-width // tile.columns))](
        logits,
        logits.stride(0),
        out,
        out.stride(0),
        block.scale,
        block.excluded,
        block.row_id,
        block.candidate_id,
        block.live,
        first_row,
        count,
        width,
        *vectors,
        HAS_IDS=block.row_id is not None,
        HAS_LIVE=block.live is not None,
        HAS_SLOPE=slope is not None,
        HAS_COLUMN=column is not None,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        num_warps=tile.warps,
        **PINNED,
    )


@triton.jit(
    do_not_specialize=["stride", "out_stride", "first_row", "rows", "columns"],
    do_not_specialize_on_alignment=[
        "scale", "excluded", "row_id", "candidate_id", "live", "row_best", "row_factor", "label",
        "slope", "column_best", "column_factor",
    ],
)  # fmt: skip
def gradient_kernel(
    logits,  # [R, C]
    stride,  # a multiple of 16 numbers; so is out_stride
    out,  # [R, C]
    out_stride,
    scale,
    excluded,  # [R + first_row]; so are row_id, row_best, row_factor, label and slope
    row_id,
    candidate_id,  # [C]; so are column_best and column_factor
    live,
    first_row,
    rows,
    columns,
    row_best,
    row_factor,
    label,
    slope,
    column_best,
    column_factor,
    HAS_IDS: tl.constexpr,
    HAS_LIVE: tl.constexpr,
    HAS_SLOPE: tl.constexpr,
    HAS_COLUMN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    local = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = local < rows, column < columns
    counts = local < live_rows(live, first_row, rows, HAS_LIVE)
    row = first_row + local
    sign, power = direction(scale)
    local = local.to(tl.int64)
    pointers = logits + (local * (stride // 16 * 16))[:, None] + column[None, :]
    touched = column < padded(columns)
    value = tl.load(pointers, mask=counts[:, None] & touched[None, :], other=0.0) * sign

    own = tl.load(excluded + row, mask=counts, other=-1)
    is_own = column[None, :] == own[:, None]
    negative = counts[:, None] & is_column[None, :] & ~is_own
    if HAS_IDS:
        own_id = tl.load(row_id + row, mask=counts, other=0)
        ids = tl.load(candidate_id + column, mask=is_column, other=0)
        negative &= ids[None, :] != own_id[:, None]

    best = tl.load(row_best + row, mask=counts, other=0.0) * sign
    factor = tl.load(row_factor + row, mask=counts, other=0.0)[:, None]
    exponent = tl.where(negative, (value - best[:, None]) * power, 0.0)
    used = factor != 0.0
    if HAS_SLOPE:
        steep = tl.load(slope + row, mask=counts, other=0.0)[:, None]
        used |= steep != 0.0
        factor += steep * (exponent * LN_2)
    result = tl.where(used, factor * tl.exp2(exponent), 0.0)
    if HAS_COLUMN:
        other_best = tl.load(column_best + column, mask=is_column, other=0.0) * sign
        other = tl.load(column_factor + column, mask=is_column, other=0.0)[None, :]
        other_exponent = tl.where(negative, (value - other_best[None, :]) * power, 0.0)
        result += tl.where(other != 0.0, other * tl.exp2(other_exponent), 0.0)
    result = tl.where(negative, result, 0.0)
    at_label = tl.load(label + row, mask=counts, other=0.0)
    result = tl.where(is_own, at_label[:, None], result)
    target = out + (local * (out_stride // 16 * 16))[:, None] + column[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=is_row[:, None] & touched[None, :])
