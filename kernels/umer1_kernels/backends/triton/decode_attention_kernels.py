"""Split-KV decode attention: parts of prefixes, parts of suffixes, and their merge.

Legend: B rows, Hq query heads, Hkv key-value heads, G = Hq / Hkv, D head size, S parts of a row: those
of the prefix first. A part is the softmax over one range of keys; ranges start at multiples of
`split` in each segment, so a row's parts are the same whatever else is in the batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.launch import PINNED, on_device

MERGED_PARTS = 16  # parts that merge_kernel reads at a time


def attend(
    query: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    prefix: tuple[Tensor, Tensor, Tensor],
    suffix: tuple[Tensor, Tensor],
    scale: float,
    split: int,
    order: Tensor,
    tiles: Tensor,
) -> Tensor:
    rows, heads, size = query.shape
    kv_heads, page_length = key_pages.shape[1:3]
    (prefix_table, prefix_length, prefix_of), (suffix_table, suffix_length) = prefix, suffix
    cuts = [
        triton.cdiv(table.shape[1] * page_length, split) for table in (prefix_table, suffix_table)
    ]
    if len(prefix_table) == 0:
        cuts[0] = 0
    query = query if query.stride(2) == 1 else query.contiguous()
    result = query.new_empty(query.shape)
    parts = query.new_empty(rows, heads, sum(cuts), size, dtype=torch.float32)
    best, total = (query.new_empty(parts.shape[:3], dtype=torch.float32) for _ in range(2))
    if rows == 0:
        return result

    def launch(shared: bool, programs: int, table: Tensor, length: Tensor) -> None:
        table = table if table.stride(1) == 1 else table.contiguous()
        tile = tables.attend_tile(shared, heads // kv_heads, query)
        attend_kernel[(programs, kv_heads, cuts[0] if shared else cuts[1])](
            query,
            query.stride(0),
            query.stride(1),
            key_pages,
            value_pages,
            key_pages.stride(0),
            value_pages.stride(0),
            page_length,
            table,
            table.stride(0),
            length.contiguous(),
            order,
            tiles,
            parts,
            best,
            total,
            scale,
            split,
            0 if shared else cuts[0],
            sum(cuts),
            kv_heads,
            SHARED=shared,
            GROUP=heads // kv_heads,
            SIZE=size,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.keys,
            BLOCK_D=triton.next_power_of_2(max(size, 16)),
            num_warps=tile.warps,
            **PINNED,
            num_stages=tile.stages,
        )

    with on_device(query):
        if cuts[0] > 0 and len(tiles) > 0:
            launch(True, len(tiles), prefix_table, prefix_length)
        if cuts[1] > 0:
            launch(False, rows, suffix_table, suffix_length)
        merge_kernel[(rows, heads)](
            parts,
            best,
            total,
            prefix_length.contiguous(),
            prefix_of.contiguous(),
            suffix_length.contiguous(),
            result,
            scale,
            split,
            cuts[0],
            sum(cuts),
            heads,
            SIZE=size,
            BLOCK_D=triton.next_power_of_2(max(size, 16)),
            BLOCK_S=MERGED_PARTS,
            num_warps=2,
            **PINNED,
        )
    return result


@triton.jit(
    do_not_specialize=["table_stride", "scale", "split", "first_part", "parts_per_row"],
    do_not_specialize_on_alignment=["table", "lengths", "order", "tiles"],
)
def attend_kernel(
    query,  # [B, Hq, D]
    row_stride,
    head_stride,
    key_pages,  # [pages, Hkv, page_length, D]
    value_pages,
    key_stride,
    value_stride,
    page_length,
    table,  # int32 [P or B, pages]
    table_stride,
    lengths,  # int32 [P or B]
    order,  # int32 [B], with tiles int32 [T, 3] where rows share a prefix
    tiles,
    parts,  # float32 [B, Hq, S, D]
    best,  # float32 [B, Hq, S]
    total,
    scale,
    split,
    first_part,
    parts_per_row,
    kv_heads,
    SHARED: tl.constexpr,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One part of up to BLOCK_M query rows: those of one key-value head of the rows of a tile."""
    tile, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    member = tl.arange(0, BLOCK_M) // GROUP
    query_head = head * GROUP + tl.arange(0, BLOCK_M) % GROUP
    if SHARED:
        owner = tl.load(tiles + tile * 3)
        count = tl.load(tiles + tile * 3 + 2)
        inside = member < count
        place = tl.load(tiles + tile * 3 + 1) + member
        row = tl.load(order + place, mask=inside, other=0).to(tl.int64)
    else:
        owner = tile
        count = 1
        inside = member < 1
        row = tile.to(tl.int64) + member * 0
    begin = part * split
    end = tl.minimum(tl.load(lengths + owner), begin + split)
    if (count > 0) & (begin < end):
        column = tl.arange(0, BLOCK_D)
        whole = column < SIZE
        queries = tl.load(
            query + (row * row_stride + query_head * head_stride)[:, None] + column[None, :],
            mask=inside[:, None] & whole[None, :],
            other=0.0,
        )
        pages = table + owner.to(tl.int64) * table_stride
        factor = scale * 1.4426950408889634
        largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        sums = tl.zeros((BLOCK_M,), tl.float32)
        weighted = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(begin, end, BLOCK_N):
            position = start + tl.arange(0, BLOCK_N)
            there = position < end
            page = tl.load(pages + position // page_length, mask=there, other=0).to(tl.int64)
            # what lies behind the end is not read: it may be anything
            filled = there[:, None] & whole[None, :]
            at = (head * page_length + position % page_length) * SIZE
            keys = tl.load(
                key_pages + (page * key_stride + at)[:, None] + column[None, :],
                mask=filled,
                other=0.0,
            )
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
            scores = tl.where(there[None, :], scores, float("-inf"))
            higher = tl.maximum(largest, tl.max(scores, 1))
            weights = tl.exp2((scores - higher[:, None]) * factor)
            kept = tl.exp2((largest - higher) * factor)
            values = tl.load(
                value_pages + (page * value_stride + at)[:, None] + column[None, :],
                mask=filled,
                other=0.0,
            )
            # weights add up to 1 as they multiply the values: rounded
            weights = weights.to(values.dtype)
            sums = sums * kept + tl.sum(weights.to(tl.float32), 1)
            weighted = tl.dot(weights, values, acc=weighted * kept[:, None], input_precision="ieee")
            largest = higher
        slot = (row * (kv_heads * GROUP) + query_head) * parts_per_row + first_part + part
        tl.store(best + slot, largest, mask=inside)
        tl.store(total + slot, sums, mask=inside)
        tl.store(
            parts + slot[:, None] * SIZE + column[None, :],
            weighted,
            mask=inside[:, None] & whole[None, :],
        )


@triton.jit(
    do_not_specialize=["scale", "split", "prefix_parts", "parts_per_row", "heads"],
    do_not_specialize_on_alignment=["prefix_length", "prefix_of", "suffix_length", "best", "total"],
)
def merge_kernel(
    parts,  # float32 [B, Hq, S, D]
    best,  # float32 [B, Hq, S]
    total,
    prefix_length,  # int32 [P]
    prefix_of,  # int32 [B]
    suffix_length,  # int32 [B]
    result,  # [B, Hq, D]
    scale,
    split,
    prefix_parts,
    parts_per_row,
    heads,
    SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One (row, query head): its parts in order. Without any key, 0."""
    row, head = tl.program_id(0), tl.program_id(1)
    slot = (row.to(tl.int64) * heads + head) * parts_per_row
    prefix = tl.load(prefix_of + row)
    prefix_keys = tl.load(prefix_length + prefix, mask=prefix >= 0, other=0)
    suffix_keys = tl.load(suffix_length + row)
    column = tl.arange(0, BLOCK_D)
    factor = scale * 1.4426950408889634
    largest = tl.full((), float("-inf"), tl.float32)
    sums = tl.full((), 0.0, tl.float32)
    weighted = tl.zeros((BLOCK_D,), tl.float32)
    for segment in tl.static_range(2):
        keys = prefix_keys if segment == 0 else suffix_keys
        first = slot if segment == 0 else slot + prefix_parts
        count = tl.cdiv(keys, split)
        for start in range(0, count, BLOCK_S):
            part = start + tl.arange(0, BLOCK_S)
            there = part < count
            own_best = tl.load(best + first + part, mask=there, other=float("-inf"))
            higher = tl.maximum(largest, tl.max(own_best))
            weight = tl.exp2((own_best - higher) * factor)
            kept = tl.exp2((largest - higher) * factor)
            values = tl.load(
                parts + (first + part)[:, None] * SIZE + column[None, :],
                mask=there[:, None] & (column < SIZE)[None, :],
                other=0.0,
            )
            sums = sums * kept + tl.sum(
                weight * tl.load(total + first + part, mask=there, other=0.0)
            )
            weighted = weighted * kept + tl.sum(values * weight[:, None], 0)
            largest = higher
    merged = tl.where(sums > 0.0, weighted / tl.where(sums > 0.0, sums, 1.0), 0.0)
    target = result + (row.to(tl.int64) * heads + head) * SIZE + column
    tl.store(target, merged.to(result.dtype.element_ty), mask=column < SIZE)
