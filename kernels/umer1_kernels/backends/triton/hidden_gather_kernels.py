"""One program per sequence: find the token, read its hidden state, divide by its norm.

Legend: R rows of all sequences back to back, B sequences, H hidden size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.launch import PINNED, on_device
from umer1_kernels.reference.hidden_gather import EPSILON

SMALLEST = tl.constexpr(EPSILON)  # norm divided by


def gather(
    hidden: Tensor,
    input_ids: Tensor,
    begin: Tensor,
    end: Tensor,
    token_id: int,
    last: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    count, size = begin.shape[0], hidden.shape[1]
    dtype = checks.compute_dtype(hidden)
    vectors = hidden.new_empty(count, size, dtype=dtype)
    index, norm = begin.new_empty(count), hidden.new_empty(count, dtype=dtype)
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    tile = tables.row_tile("gather", hidden)
    with on_device(hidden):
        gather_kernel[(count,)](
            hidden,
            hidden.stride(0),
            input_ids.contiguous(),
            begin.contiguous(),
            end.contiguous(),
            hidden.shape[0],
            size,
            token_id,
            vectors,
            index,
            norm,
            LAST=last,
            NORMALIZE=normalize,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
            **PINNED,
        )
    return vectors, index, norm


def scatter(
    grad: Tensor,
    vectors: Tensor,
    index: Tensor,
    norm: Tensor,
    rows: int,
    dtype: torch.dtype,
    normalize: bool,
) -> Tensor:
    count, size = grad.shape
    # the interpreter would round to bfloat16 downwards
    made = dtype if grad.is_cuda else grad.dtype
    hidden_grad = torch.zeros(rows, size, dtype=made, device=grad.device)
    tile = tables.row_tile("gather", grad)
    with on_device(grad):
        scatter_kernel[(count,)](
            hidden_grad,
            grad.contiguous(),  # that of a sum is expanded
            vectors,
            index,
            norm,
            size,
            NORMALIZE=normalize,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
            **PINNED,
        )
    return hidden_grad.to(dtype)


def step_(
    vectors: Tensor,
    hit: Tensor,
    hidden: Tensor,
    input_ids: Tensor,
    slot_ids: Tensor,
    generated: Tensor,
    token_id: int,
    normalize: bool,
) -> None:
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    tile = tables.row_tile("gather", hidden)
    with on_device(hidden):
        step_kernel[(hidden.shape[0],)](
            vectors,
            vectors.stride(0),
            hit,
            hidden,
            hidden.stride(0),
            input_ids.contiguous(),
            slot_ids.contiguous(),
            generated.contiguous(),
            hidden.shape[1],
            token_id,
            NORMALIZE=normalize,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
            **PINNED,
        )


@triton.jit
def _norm(row, size, dtype: tl.constexpr, COLUMNS: tl.constexpr):
    """The L2 norm of a row, in the given dtype."""
    square = tl.zeros((COLUMNS,), dtype)
    for first in range(0, size, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        value = tl.load(row + column, mask=column < size, other=0.0).to(dtype)
        square += value * value
    return tl.sqrt(tl.sum(square))


@triton.jit(
    do_not_specialize=["stride", "rows", "size", "token_id"],
    do_not_specialize_on_alignment=["hidden", "input_ids", "begin", "end"],
)
def gather_kernel(
    hidden,  # [R, H]
    stride,
    input_ids,  # int64 [R]
    begin,  # int64 [B]
    end,
    rows,
    size,
    token_id,
    vectors,  # [B, H]
    index,  # int64 [B]
    norm,  # [B]
    LAST: tl.constexpr,
    NORMALIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    # whatever the offsets say, nothing outside the rows is read
    low = tl.maximum(tl.load(begin + sequence), 0)
    high = tl.minimum(tl.load(end + sequence), rows)
    lane = tl.arange(0, COLUMNS)
    found = tl.full((), -1, tl.int64)
    while (found < 0) & (low < high):
        if LAST:
            high -= COLUMNS
            position = high + lane
        else:
            position = low + lane
            low += COLUMNS
        if LAST:
            inside = position >= low
            ids = tl.load(input_ids + position, mask=inside, other=0)
            found = tl.max(tl.where(inside & (ids == token_id), position, -1))
        else:
            inside = position < high
            ids = tl.load(input_ids + position, mask=inside, other=0)
            nearest = tl.min(tl.where(inside & (ids == token_id), position, rows))
            found = tl.where(nearest < rows, nearest, -1)
    tl.store(index + sequence, found)

    dtype: tl.constexpr = vectors.dtype.element_ty
    is_there = found >= 0
    row = hidden + tl.maximum(found, 0) * stride
    width = tl.where(is_there, size, 0)
    length = _norm(row, width, dtype, COLUMNS)
    tl.store(norm + sequence, length)
    # this way round a NaN norm stays NaN
    divisor = tl.where(length < SMALLEST, SMALLEST, length)
    for first in range(0, size, COLUMNS):
        column = first + lane
        value = tl.load(row + column, mask=column < width, other=0.0).to(dtype)
        if NORMALIZE:
            value = value / divisor
        tl.store(vectors + sequence * size + column, value, mask=column < size)


@triton.jit(
    do_not_specialize=["size"],
    do_not_specialize_on_alignment=["grad", "vectors", "index", "norm"],
)
def scatter_kernel(
    hidden_grad,  # [R, H], zeros
    grad,  # [B, H]
    vectors,
    index,
    norm,
    size,
    NORMALIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """d/dx (x / |x|) = (g - v <v, g>) / |x|; below the smallest norm the divisor is constant."""
    sequence = tl.program_id(0).to(tl.int64)
    row = tl.load(index + sequence)
    lane = tl.arange(0, COLUMNS)
    width = tl.where(row >= 0, size, 0)
    length = tl.load(norm + sequence)
    along = tl.zeros((COLUMNS,), grad.dtype.element_ty)
    if NORMALIZE:
        for first in range(0, width, COLUMNS):
            column = first + lane
            place = sequence * size + column
            g = tl.load(grad + place, mask=column < size, other=0.0)
            along += g * tl.load(vectors + place, mask=column < size, other=0.0)
    projection = tl.where(length < SMALLEST, 0.0, tl.sum(along))
    divisor = tl.where(length < SMALLEST, SMALLEST, length)
    for first in range(0, width, COLUMNS):
        column = first + lane
        place = sequence * size + column
        value = tl.load(grad + place, mask=column < size, other=0.0)
        if NORMALIZE:
            unit = tl.load(vectors + place, mask=column < size, other=0.0)
            value = (value - unit * projection) / divisor
        target = hidden_grad + row * size + column
        tl.store(target, value.to(hidden_grad.dtype.element_ty), mask=column < size)


@triton.jit(
    do_not_specialize=["vector_stride", "stride", "size", "token_id"],
    do_not_specialize_on_alignment=[
        "vectors", "hit", "hidden", "input_ids", "slot_ids", "generated",
    ],
)  # fmt: skip
def step_kernel(
    vectors,  # float32 [slots, H]
    vector_stride,
    hit,  # bool [slots]
    hidden,  # [B, H]
    stride,
    input_ids,  # [B]
    slot_ids,
    generated,  # bool [B]
    size,
    token_id,
    NORMALIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ids + sequence).to(tl.int64)
    is_token = tl.load(input_ids + sequence) == token_id
    if is_token & (tl.load(generated + sequence) != 0) & (slot >= 0):
        row = hidden + sequence * stride
        length = _norm(row, size, tl.float32, COLUMNS)
        divisor = tl.where(length < SMALLEST, SMALLEST, length)
        for first in range(0, size, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            value = tl.load(row + column, mask=column < size, other=0.0).to(tl.float32)
            if NORMALIZE:
                value = value / divisor
            tl.store(vectors + slot * vector_stride + column, value, mask=column < size)
        tl.store(hit + slot, True)
