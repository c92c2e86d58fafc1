"""decode_attention: one query per row against paged keys and values; append_kv writes the pages.

A row's context is a prefix that any number of rows share (a prompt), then a suffix of its own (what
it has generated): two lists of pages, so forking a prompt copies nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.backends import choose
from umer1_kernels.reference.decode_attention import append_kv as reference_append_kv
from umer1_kernels.reference.decode_attention import decode_attention as reference_attention

TILE_ROWS = 64  # query rows of a tile of rows that share a prefix


class PrefixGroups(NamedTuple):
    """Rows that share a prefix, in tiles; made by `prefix_groups`, on the device.

    Attributes:
        order: int32 [B], rows with a prefix first, those of one prefix side by side.
        tiles: int32 [T, 3]: prefix, first place in `order`, number of rows; 0 rows in unused tiles.
        rows: most rows of a tile.
    """

    order: Tensor
    tiles: Tensor
    rows: int


@torch.no_grad()
def decode_attention(
    query: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    prefix_table: Tensor,
    prefix_length: Tensor,
    prefix_of: Tensor,
    suffix_table: Tensor,
    suffix_length: Tensor,
    *,
    scale: float | None = None,
    split: int = 256,
    groups: PrefixGroups | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(scale * query · keys) · values of each row over its prefix, then its suffix.

    B rows, Hq query heads, Hkv key-value heads (Hq a multiple; query head h reads head
    h * Hkv // Hq), D head size, P prefixes.

    Args:
        query: [B, Hq, D], RoPE applied; rows and heads may be strided.
        key_pages, value_pages: [pages, Hkv, page length, D] of one layer, in the query's dtype; only
            the first stride is free.
        prefix_table: int32 [P, pages of the longest]; entries behind a prefix's length are not read.
        prefix_length: int32 [P].
        prefix_of: int32 [B], which prefix each row continues; -1: none.
        suffix_table: int32 [B, pages of the longest]. suffix_length: int32 [B], the token of this
            step included. A row without any key gets 0.
        scale: default D ** -0.5; above 0.
        split: keys of a part. Each segment is cut at multiples of it, whatever else is in the batch:
            a row's bits depend on its own keys and on `split`, not on the other rows, their number,
            their order or the pages' numbers.
        groups: what `prefix_groups` made of `prefix_of`, once for all layers of a step. Only "triton"
            needs it, and makes it itself where it is missing.
        backend: "auto", "reference", "cpu" or "triton" (whose kernels never ran on a GPU yet).

    Returns:
        [B, Hq, D] in the query's dtype. Computed in float32 (float64 for float64). No gradient flows.

    No value is looked at on the host outside the CPU: lengths may change under a captured graph. The
    tables' widths bound the work that is launched: pass views of the columns in use.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it. Lengths and page numbers
        out of range are found on the CPU only.
    """
    tables = (prefix_table, prefix_length, prefix_of, suffix_table, suffix_length)
    _check(query, key_pages, value_pages, *tables, scale, split)
    chosen = choose("decode_attention", backend, query, key_pages, value_pages).backend
    scale = query.shape[2] ** -0.5 if scale is None else float(scale)
    if chosen == "reference":
        return reference_attention(query, key_pages, value_pages, *tables, scale=scale)
    if chosen == "cpu":
        from umer1_kernels.backends.cpu.operators import operators

        return operators.decode_attention(query, key_pages, value_pages, *tables, scale, split)
    from umer1_kernels.backends.triton import decode_attention as triton

    heads = query.shape[1] // key_pages.shape[1]
    _check_heads(heads)
    if groups is None:
        groups = prefix_groups(prefix_of, prefix_table.shape[0], heads)
    elif groups.rows * heads > TILE_ROWS:
        raise ValueError(
            f"groups has tiles of {groups.rows} rows; with {heads} query heads per key-value head "
            f"a tile holds {TILE_ROWS // heads}"
        )
    tiles = (groups.order, groups.tiles)
    return triton.attend(query, key_pages, value_pages, *tables, scale, split, *tiles)


@torch.no_grad()
def prefix_groups(prefix_of: Tensor, prefixes: int, heads: int) -> PrefixGroups:
    """Tiles of rows that share a prefix, for the "triton" backend: once per step, for all layers.

    Args:
        prefix_of: int32 [B], as for decode_attention.
        prefixes: P, the rows of prefix_table.
        heads: query heads per key-value head.
    """
    checks.check_integer("prefix_of", prefix_of, (len(prefix_of),))
    _check_heads(heads)
    choose("decode_attention", "triton", prefix_of)
    from umer1_kernels.backends.triton import decode_attention as triton

    rows = TILE_ROWS // heads
    return PrefixGroups(*triton.prefix_groups(prefix_of, prefixes, rows), rows)


@torch.no_grad()
def append_kv(
    key: Tensor,
    value: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    table: Tensor,
    position: Tensor,
    *,
    table_row: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Write tokens' keys and values to their pages, in place.

    Args:
        key, value: [T, Hkv, D], RoPE applied; may be strided.
        key_pages, value_pages: [pages, Hkv, page length, D], as for decode_attention.
        table: int32 [rows, pages], a prefix or suffix table.
        position: int32 [T], each token's place in its segment; -1: not written. Two tokens must not
            have the same place.
        table_row: int32 [T], each token's row of the table; default: token t has row t (decoding).
        backend: "auto", "reference", "cpu" or "triton" (whose kernels never ran on a GPU yet).
    """
    checks.check_floating("key", key, 3)
    _check_pages(key_pages, value_pages, "key", key)
    checks.check_shape("key", key, (key.shape[0], key_pages.shape[1], key_pages.shape[3]))
    checks.check_shape("value", value, tuple(key.shape))
    checks.check_same("value", value, "key", key, dtype=True)
    tokens = key.shape[0]
    _check_int32("position", position, (tokens,), key)
    _check_int32("table", table, (*table.shape[:1], *table.shape[-1:]), key)
    if table_row is not None:
        _check_int32("table_row", table_row, (tokens,), key)
    elif table.shape[0] < tokens:
        raise ValueError(f"table has {table.shape[0]} rows for {tokens} tokens; pass table_row")
    chosen = choose("append_kv", backend, key, key_pages, value_pages).backend
    arguments = (key, value, key_pages, value_pages, table, position)
    if chosen == "reference":
        reference_append_kv(*arguments, table_row=table_row)
    elif chosen == "cpu":
        from umer1_kernels.backends.cpu.operators import operators

        operators.append_kv_(*arguments, table_row)
    else:
        from umer1_kernels.backends.triton.decode_attention import append_

        append_(*arguments, table_row)


def _check(query, key_pages, value_pages, prefix_table, prefix_length, prefix_of, suffix_table,
           suffix_length, scale, split) -> None:  # fmt: skip
    checks.check_floating("query", query, 3)
    _check_pages(key_pages, value_pages, "query", query)
    rows, heads, size = query.shape
    if key_pages.shape[3] != size:
        raise ValueError(f"key_pages has head size {key_pages.shape[3]}, query {size}")
    if heads < 1 or heads % max(key_pages.shape[1], 1):
        raise ValueError(f"query has {heads} heads, no multiple of key_pages' {key_pages.shape[1]}")
    _check_int32(
        "prefix_table", prefix_table, (*prefix_length.shape, *prefix_table.shape[-1:]), query
    )
    _check_int32("prefix_length", prefix_length, prefix_table.shape[:1], query)
    _check_int32("prefix_of", prefix_of, (rows,), query)
    _check_int32("suffix_table", suffix_table, (rows, *suffix_table.shape[-1:]), query)
    _check_int32("suffix_length", suffix_length, (rows,), query)
    if scale is not None and not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0")
    if isinstance(split, bool) or not isinstance(split, int) or split < 1:
        raise ValueError(f"split is {split!r}; it must be an int of at least 1")


def _check_pages(key_pages, value_pages, name: str, other: Tensor) -> None:
    """Both [pages, Hkv, page length, D], alike and contiguous within a page."""
    checks.check_floating("key_pages", key_pages, 4)
    checks.check_shape("value_pages", value_pages, tuple(key_pages.shape))
    for pages_name, pages in (("key_pages", key_pages), ("value_pages", value_pages)):
        checks.check_same(pages_name, pages, name, other, dtype=True)
        _, heads, length, size = pages.shape
        if pages.stride()[1:] != (length * size, size, 1):
            raise ValueError(
                f"{pages_name} has strides {pages.stride()}; a page must be contiguous"
            )


def _check_int32(name: str, value, shape: tuple[int, ...], like: Tensor) -> None:
    if (
        isinstance(value, Tensor)
        and value.dtype == torch.int32
        and value.shape == shape
        and value.device == like.device
    ):
        return  # the usual case, once per layer and step
    checks.check_integer(name, value, shape)
    if value.dtype != torch.int32:
        raise TypeError(f"{name} has dtype {value.dtype}; it must be int32")
    checks.check_same(name, value, "the other arguments", like, dtype=False)


def _check_heads(heads: int) -> None:
    if not 1 <= heads <= TILE_ROWS:
        raise ValueError(
            f"the triton backend takes 1 to {TILE_ROWS} query heads per key-value head, not {heads}"
        )
