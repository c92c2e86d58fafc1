"""What goes around decode attention: writing keys and values to pages, and grouping rows by prefix.

Legend: B rows, T tokens, Hkv key-value heads, D head size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton.launch import PINNED, on_device

GROUP_ROWS = 64  # rows that one program of group_kernel places


def group(prefix_of: Tensor, prefixes: int, rows: int) -> tuple[Tensor, Tensor]:
    """order [B] and tiles [B // rows + P, 3], zeros where no tile is needed."""
    count = len(prefix_of)
    order = torch.zeros_like(prefix_of, memory_format=torch.contiguous_format)
    tiles = prefix_of.new_zeros(count // rows + prefixes, 3)
    if count and prefixes:
        with on_device(prefix_of):
            group_kernel[(triton.cdiv(count, GROUP_ROWS),)](
                prefix_of.contiguous(),
                count,
                rows,
                order,
                tiles,
                BLOCK=GROUP_ROWS,
                num_warps=4,
                **PINNED,
            )
    return order, tiles


def append(
    key: Tensor,
    value: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    table: Tensor,
    position: Tensor,
    table_row: Tensor | None,
) -> None:
    tokens, heads, size = key.shape
    key, value = (
        rows if rows.stride()[1:] == (size, 1) else rows.contiguous() for rows in (key, value)
    )
    table = table if table.stride(1) == 1 else table.contiguous()
    if tokens == 0:
        return
    with on_device(key):
        append_kernel[(tokens,)](
            key,
            value,
            key.stride(0),
            value.stride(0),
            key_pages,
            value_pages,
            key_pages.stride(0),
            value_pages.stride(0),
            key_pages.shape[2],
            table,
            table.stride(0),
            position.contiguous(),
            position if table_row is None else table_row.contiguous(),
            HAS_ROW=table_row is not None,
            HEADS=heads,
            SIZE=size,
            BLOCK=triton.next_power_of_2(heads * size),
            num_warps=4,
            **PINNED,
        )


@triton.jit(
    do_not_specialize=["count", "rows"],
    do_not_specialize_on_alignment=["prefix_of", "order", "tiles"],
)
def group_kernel(
    prefix_of,  # int32 [B]
    count,
    rows,  # of a tile
    order,  # int32 [B]
    tiles,  # int32 [T, 3], zeros
    BLOCK: tl.constexpr,
):
    """Places some rows among all. Tiles of prefix p start at (rows of lower prefixes) // rows + p."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = tl.load(prefix_of + row, mask=row < count, other=-1)
    lower = tl.zeros((BLOCK,), tl.int32)  # rows of lower prefixes
    before = tl.zeros((BLOCK,), tl.int32)  # rows of this prefix with a lower number
    together = tl.zeros((BLOCK,), tl.int32)  # rows of this prefix
    for start in range(0, count, BLOCK):
        other_row = start + tl.arange(0, BLOCK)
        other = tl.load(prefix_of + other_row, mask=other_row < count, other=-1)
        counts = (other >= 0)[None, :]
        same = counts & (other[None, :] == mine[:, None])
        lower += tl.sum((counts & (other[None, :] < mine[:, None])).to(tl.int32), 1)
        before += tl.sum((same & (other_row[None, :] < row[:, None])).to(tl.int32), 1)
        together += tl.sum(same.to(tl.int32), 1)
    live = mine >= 0
    place = lower + before
    tl.store(order + place, row, mask=live)
    leads = live & (before % rows == 0)
    tile = tiles + (lower // rows + mine + before // rows) * 3
    tl.store(tile, mine, mask=leads)
    tl.store(tile + 1, place, mask=leads)
    tl.store(tile + 2, tl.minimum(together - before, rows), mask=leads)


@triton.jit(
    do_not_specialize=["table_stride"],
    do_not_specialize_on_alignment=["table", "position", "table_row"],
)
def append_kernel(
    key,  # [T, Hkv, D]
    value,
    key_row_stride,
    value_row_stride,
    key_pages,  # [pages, Hkv, page_length, D]
    value_pages,
    key_stride,
    value_stride,
    page_length,
    table,  # int32 [rows, pages]
    table_stride,
    position,  # int32 [T]
    table_row,  # int32 [T]
    HAS_ROW: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(position + token)
    if place >= 0:
        row = tl.load(table_row + token).to(tl.int64) if HAS_ROW else token
        page = tl.load(table + row * table_stride + place // page_length).to(tl.int64)
        number = tl.arange(0, BLOCK)
        whole = number < HEADS * SIZE
        at = (number // SIZE * page_length + place % page_length) * SIZE + number % SIZE
        keys = tl.load(key + token * key_row_stride + number, mask=whole)
        tl.store(key_pages + page * key_stride + at, keys, mask=whole)
        values = tl.load(value + token * value_row_stride + number, mask=whole)
        tl.store(value_pages + page * value_stride + at, values, mask=whole)
