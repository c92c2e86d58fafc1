"""Contexts for decode attention, with NaN wherever nothing may be read, and what they mean in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Context(NamedTuple):
    """The arguments of decode_attention, in order."""

    query: Tensor
    key_pages: Tensor
    value_pages: Tensor
    prefix_table: Tensor
    prefix_length: Tensor
    prefix_of: Tensor
    suffix_table: Tensor
    suffix_length: Tensor


def make(
    prefix_of: list[int],
    prefix_length: list[int],
    suffix_length: list[int],
    *,
    group: int = 6,
    kv_heads: int = 2,
    size: int = 64,
    page_length: int = 64,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Context:
    """Random numbers in the places in use; pages in random order, one page and one column to spare."""
    torch.manual_seed(seed)
    rows = len(prefix_of)
    tables, used = [], []
    for lengths in (prefix_length, suffix_length):
        width = max((-(-length // page_length) for length in lengths), default=0) + 1
        tables.append(torch.full((len(lengths), width), -7, dtype=torch.int32))
        used += [(len(tables) - 1, row, page) for row, length in enumerate(lengths)
                 for page in range(-(-length // page_length))]  # fmt: skip
    numbers = torch.randperm(len(used) + 1)
    shape = (len(used) + 1, kv_heads, page_length, size)
    key_pages, value_pages = (torch.full(shape, float("nan")) for _ in range(2))
    for (table, row, page), number in zip(used, numbers.tolist()):
        tables[table][row, page] = number
        filled = min(page_length, (prefix_length, suffix_length)[table][row] - page * page_length)
        for pages in (key_pages, value_pages):
            pages[number, :, :filled] = torch.randn(kv_heads, filled, size)
    whole = lambda values: torch.tensor(values, dtype=torch.int32)
    return Context(
        torch.randn(rows, kv_heads * group, size).to(dtype).to(device),
        key_pages.to(dtype).to(device),
        value_pages.to(dtype).to(device),
        tables[0].to(device),
        whole(prefix_length).to(device),
        whole(prefix_of).to(device),
        tables[1].to(device),
        whole(suffix_length).to(device),
    )


def truth(context: Context, scale: float | None = None) -> Tensor:
    """float64 [B, Hq, D], row by row and place by place; 0 without any key."""
    context = Context(*(part.cpu() for part in context))
    rows, heads, size = context.query.shape
    kv_heads, page_length = context.key_pages.shape[1:3]
    result = torch.zeros(rows, heads, size, dtype=torch.float64)
    for row in range(rows):
        prefix = int(context.prefix_of[row])
        segments = [(context.suffix_table[row], int(context.suffix_length[row]))]
        if prefix >= 0:
            table, length = context.prefix_table[prefix], context.prefix_length[prefix]
            segments.insert(0, (table, int(length)))
        places = [(int(table[place // page_length]), place % page_length)
                  for table, length in segments for place in range(length)]  # fmt: skip
        if not places:
            continue
        page, offset = torch.tensor(places).T
        key, value = (pages[page, :, offset].double().transpose(0, 1)
                      for pages in (context.key_pages, context.value_pages))  # fmt: skip
        query = context.query[row].double().view(kv_heads, -1, size)
        scores = query @ key.transpose(1, 2) * (size**-0.5 if scale is None else scale)
        result[row] = (torch.softmax(scores, -1) @ value).view(heads, size)
    return result


def select(context: Context, rows: list[int]) -> Context:
    """The same pages and prefixes with these rows alone."""
    index = torch.tensor(rows, device=context.query.device)
    own = ("query", "prefix_of", "suffix_table", "suffix_length")
    return context._replace(**{name: getattr(context, name)[index] for name in own})


def renumber(context: Context) -> Context:
    """The same contents on pages with other numbers, prefixes in reversed order."""
    count = len(context.key_pages)
    new = torch.randperm(count, device=context.query.device)
    key_pages, value_pages = (torch.empty_like(pages) for pages in context[1:3])
    key_pages[new], value_pages[new] = context.key_pages, context.value_pages
    move = lambda table: torch.where(table >= 0, new[table.clamp_min(0).long()].int(), table)
    last = len(context.prefix_length) - 1
    return Context(
        context.query,
        key_pages,
        value_pages,
        move(context.prefix_table).flip(0),
        context.prefix_length.flip(0),
        torch.where(context.prefix_of >= 0, last - context.prefix_of, -1).int(),
        move(context.suffix_table),
        context.suffix_length,
    )


# name -> prefixes of the rows, lengths of prefixes and of suffixes, options
CASES = {
    "one row": ([-1], [], [5], {}),
    "one row of one key": ([-1], [], [1], {"group": 1, "kv_heads": 1}),
    "ragged without prefixes": ([-1] * 5, [], [1, 63, 64, 65, 300], {"group": 1, "size": 128}),
    "one prefix": ([0, 0, 0], [70], [1, 9, 64], {"group": 7}),
    "three prefixes and none": (
        [2, 0, -1, 0, 1, 2, 2, 0, 2], [1, 257, 130], [3, 64, 200, 1, 77, 129, 12, 256, 31],
        {"size": 128},
    ),
    "prefix alone": ([0, 1], [100, 64], [0, 0], {}),
    "nothing to read": ([-1, 0, 1], [40, 0], [0, 2, 0], {}),
    "small pages": ([1, 1, 0, -1], [37, 130], [1, 16, 17, 90], {"page_length": 16}),
    "large pages": ([0, 0], [300], [20, 150], {"page_length": 512, "kv_heads": 1}),
    "odd head": ([0, -1, 0], [45], [70, 9, 1], {"size": 80, "group": 3, "kv_heads": 3}),
    "unused prefix": ([2, 2], [64, 3, 90], [8, 8], {"group": 2}),
    "many rows": ([0] * 70 + [1] * 3, [150, 20], [1 + row % 7 for row in range(73)], {}),
}  # fmt: skip
