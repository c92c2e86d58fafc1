"""Best-fit decreasing without a compiler: numpy sorts, Python places. csrc/host/packing.cpp does the same, faster."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from itertools import chain, repeat

import numpy as np


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Items into packs of at most `capacity`, longest first, each where the least room is left.

    Of equal lengths the one with the lower number goes first; of packs with equal room the one that
    has had that room longest is filled first. An item longer than `capacity` has a pack of its own.

    Equal lengths are placed together: once a pack takes one, it is the best fit for the next of the
    same length as long as it holds another, so a pack is looked up once per length, not per item.

    Args:
        lengths: int64 [n], none negative. capacity: at least 1.

    Returns:
        items: int64 [n], item numbers pack by pack, packs in the order they were opened.
        ends: int64 [p], where each pack ends in `items`.
    """
    order = np.argsort(-lengths, kind="stable")
    placed: list[int] = []  # pack of each item, in `order`
    packs_with: dict[int, deque[int]] = {}  # by room left
    rooms: list[int] = []  # its keys, ascending
    opened = 0

    def leave(packs, room: int) -> None:
        if room not in packs_with:
            packs_with[room] = deque()
            insort(rooms, room)
        packs_with[room].extend(packs)

    distinct, counts = np.unique(lengths, return_counts=True)
    for length, left in zip(distinct[::-1].tolist(), counts[::-1].tolist()):
        if length > capacity:
            placed += range(opened, opened + left)
            opened += left
            continue
        while left:
            place = bisect_left(rooms, length)
            room = rooms[place] if place < len(rooms) else capacity
            each = room // length if length else left
            wanted = -(-left // each)
            if place == len(rooms):
                packs = range(opened, opened + wanted)
                opened += wanted
            elif wanted < len(packs_with[room]):
                packs = [packs_with[room].popleft() for _ in range(wanted)]
            else:
                packs = packs_with.pop(room)
                del rooms[place]
            full, rest = divmod(left, each) if wanted <= len(packs) else (len(packs), 0)
            packs = list(packs)
            placed += chain.from_iterable(repeat(pack, each) for pack in packs[:full])
            if full:
                leave(packs[:full], room - each * length)
            if rest:
                placed += repeat(packs[full], rest)
                leave(packs[full:], room - rest * length)
            left -= full * each + rest
    pack_of = np.array(placed, dtype=np.int64)
    items = order[np.argsort(pack_of, kind="stable")]
    return items, np.bincount(pack_of, minlength=opened).cumsum().astype(np.int64)
