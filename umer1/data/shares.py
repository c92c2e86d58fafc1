"""Equal shares of a number among takers that cannot all take as much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def equal_shares(total: int, sizes: Sequence[int] | np.ndarray) -> list[int]:
    """How many of `total` each taker gets: equal numbers, at most its size; what small ones leave is
    shared out among the others. A rest goes to the first that have room.

    Raises ValueError if the sizes together are below `total`.
    """
    sizes = np.asarray(sizes, np.int64)
    if total > sizes.sum() or total < 0:
        raise ValueError(f"total: got {total}, wants 0 to {sizes.sum()}, the sizes together")
    low, high = 0, int(sizes.max(initial=0))  # the largest level that the total still pays for
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(sizes, level).sum() <= total else (low, level - 1)
    shares = np.minimum(sizes, low)
    room = np.flatnonzero(sizes > shares)[: total - int(shares.sum())]
    shares[room] += 1
    return shares.tolist()
