"""Equal counts and about equal tokens for every process."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np


def even_shares(lengths: Sequence[int] | np.ndarray, parts: int) -> list[list[int]]:
    """Item numbers in `parts` shares of equally many items and about equal sums of lengths.

    Balanced largest-first differencing (Karmarkar and Karp's method with equal counts; Yakir 1996): of
    the lengths in descending order, every `parts` consecutive ones are one to each share; of all such
    partial divisions the two least even ones are joined, heaviest share to lightest, until one is left.
    Equal lengths keep their order, so the result depends on the arguments alone.

    Raises:
        ValueError: the number of items is not a multiple of `parts`.
    """
    tokens = [int(length) for length in lengths]
    if parts < 1 or len(tokens) % parts:
        raise ValueError(f"parts: {len(tokens)} items cannot be {parts} equal shares")
    if not tokens:
        return [[] for _ in range(parts)]
    order = sorted(range(len(tokens)), key=lambda item: -tokens[item])
    # (spread with its sign turned, number, shares by descending sum)
    divisions = []
    for number in range(len(tokens) // parts):
        items = order[number * parts : (number + 1) * parts]
        shares = [(tokens[item], [item]) for item in items]
        divisions.append((shares[-1][0] - shares[0][0], number, shares))
    heapq.heapify(divisions)
    while len(divisions) > 1:
        _, number, one = heapq.heappop(divisions)
        _, _, other = heapq.heappop(divisions)
        joined = [
            (left[0] + right[0], left[1] + right[1]) for left, right in zip(one, reversed(other))
        ]
        joined.sort(key=lambda share: (-share[0], share[1]))
        heapq.heappush(divisions, (joined[-1][0] - joined[0][0], number, joined))
    return sorted(sorted(items) for _, items in divisions[0][2])
