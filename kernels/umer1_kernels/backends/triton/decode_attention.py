"""decode_attention's launches as operators; the Triton kernels are imported when one first runs."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("umer1_kernels::triton_decode_attention", mutates_args=())
def attend(
    query: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    prefix_table: Tensor,
    prefix_length: Tensor,
    prefix_of: Tensor,
    suffix_table: Tensor,
    suffix_length: Tensor,
    scale: float,
    split: int,
    order: Tensor,
    tiles: Tensor,
) -> Tensor:
    """[B, Hq, D]; see umer1_kernels.decode_attention."""
    from umer1_kernels.backends.triton.decode_attention_kernels import attend

    prefix = (prefix_table, prefix_length, prefix_of)
    suffix = (suffix_table, suffix_length)
    return attend(query, key_pages, value_pages, prefix, suffix, scale, split, order, tiles)


@attend.register_fake
def _(query, *rest):
    return query.new_empty(query.shape)


@torch.library.custom_op("umer1_kernels::triton_prefix_groups", mutates_args=())
def prefix_groups(prefix_of: Tensor, prefixes: int, rows: int) -> tuple[Tensor, Tensor]:
    """order [B] and tiles [T, 3] of at most `rows` rows."""
    from umer1_kernels.backends.triton.decode_pages_kernels import group

    return group(prefix_of, prefixes, rows)


@prefix_groups.register_fake
def _(prefix_of, prefixes, rows):
    count = prefix_of.shape[0]
    return prefix_of.new_empty(count), prefix_of.new_empty((count // rows + prefixes, 3))


@torch.library.custom_op(
    "umer1_kernels::triton_append_kv_", mutates_args=("key_pages", "value_pages")
)
def append_(
    key: Tensor,
    value: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    table: Tensor,
    position: Tensor,
    table_row: Tensor | None,
) -> None:
    """See umer1_kernels.append_kv."""
    from umer1_kernels.backends.triton.decode_pages_kernels import append

    append(key, value, key_pages, value_pages, table, position, table_row)


@append_.register_fake
def _(key, value, key_pages, value_pages, table, position, table_row):
    return None
