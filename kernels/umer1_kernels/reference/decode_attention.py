"""Decode attention over pages and the writing of pages, in plain PyTorch.

Legend: B rows, Hq query heads, Hkv key-value heads, D head size, P prefixes, N keys of a segment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks


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
) -> Tensor:
    """See umer1_kernels.decode_attention. Gathers every row's pages, and looks at no value."""
    rows, heads, size = query.shape
    dtype = checks.compute_dtype(query)
    grouped = query.to(dtype).view(rows, key_pages.shape[1], -1, size)  # [B, Hkv, group, D]
    segments = [(suffix_table, suffix_length)]
    if prefix_table.shape[0] > 0:
        prefix = prefix_of.clamp_min(0).long()
        length = torch.where(prefix_of >= 0, prefix_length[prefix], 0)
        segments.insert(0, (prefix_table[prefix], length))
    gathered = [
        tuple(_gather(pages, *segment).to(dtype) for pages in (key_pages, value_pages))
        for segment in segments
    ]
    key, value = (torch.cat(parts, 2) for parts in zip(*gathered, strict=True))  # [B, Hkv, N, D]
    inside = torch.cat([_inside(key_pages, *segment) for segment in segments], 1)
    scores = grouped @ key.transpose(2, 3) * (size**-0.5 if scale is None else scale)
    scores = scores.masked_fill(~inside[:, None, None], float("-inf"))
    # a row without any key gets 0
    weights = torch.softmax(scores, -1).masked_fill(~inside.any(1)[:, None, None, None], 0.0)
    return (weights @ value).reshape(rows, heads, size).to(query.dtype)


def append_kv(
    key: Tensor,
    value: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    table: Tensor,
    position: Tensor,
    *,
    table_row: Tensor | None = None,
) -> None:
    """See umer1_kernels.append_kv."""
    tokens, length = len(position), key_pages.shape[2]
    if tokens == 0:
        return
    token = torch.arange(tokens, device=position.device)
    written = position >= 0
    # tokens that are not written repeat one that is, so that every place has one content
    token = torch.where(written, token, written.int().argmax())
    written = written[token]  # all, or none
    place = torch.where(written, position[token], 0).long()
    row = token if table_row is None else table_row[token].long()
    page = torch.where(written, table[row, place // length], 0).long()
    for pages, rows in ((key_pages, key), (value_pages, value)):
        kept = pages[page, :, place % length]
        pages[page, :, place % length] = torch.where(written[:, None, None], rows[token], kept)


def _inside(pages: Tensor, table: Tensor, length: Tensor) -> Tensor:
    """bool [B, N]: which places of the table's pages hold keys."""
    place = torch.arange(table.shape[1] * pages.shape[2], device=table.device)
    return place < length[:, None]


def _gather(pages: Tensor, table: Tensor, length: Tensor) -> Tensor:
    """[B, Hkv, N, D]: the rows' pages one after the other, 0 behind the length whatever is there."""
    page_length = pages.shape[2]
    used = torch.arange(table.shape[1], device=table.device) * page_length < length[:, None]
    found = pages[torch.where(used, table, 0).long()]  # [B, pages, Hkv, page_length, D]
    found = found.transpose(1, 2).flatten(2, 3)
    return torch.where(_inside(pages, table, length)[:, None, :, None], found, 0.0)
