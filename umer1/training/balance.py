"""Equal counts and about equal tokens for every process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def even_shares(lengths: Sequence[int] | np.ndarray, parts: int) -> list[list[int]]:
    """Item numbers in `parts` shares of equally many items and about equal sums of lengths.

    Longest first, items are dealt to the shares forth and back. Then, as long as that helps, the fullest share and
    the lightest one that has something to offer exchange the two items that make the larger of their sums smallest.
    Equal lengths keep their order, so the result depends on the arguments alone.

    Args:
        lengths: whole numbers from 0; their sum is below 2**63.

    Raises:
        ValueError: the number of items is not a multiple of `parts`.
    """
    length = np.asarray(lengths, dtype=np.int64)
    if parts < 1 or len(length) % parts:
        raise ValueError(f"parts: {len(length)} items cannot be {parts} equal shares")
    items = np.argsort(-length, kind="stable").reshape(-1, parts)
    items[1::2] = items[1::2, ::-1]
    items = items.T.copy()  # [parts, items of a share]
    while _exchange(items, length[items]):
        pass
    return sorted(sorted(share) for share in items.tolist())


def _exchange(items: np.ndarray, length: np.ndarray) -> bool:
    """Swap an item of the fullest share for a better one, in place; False if there is none. [parts, n] each."""
    sums = length.sum(1)
    fullest = int(sums.argmax())
    for other in np.argsort(sums, kind="stable").tolist():
        less = length[fullest][:, None] - length[other]
        larger = np.maximum(sums[fullest] - less, sums[other] + less)
        if larger.size and larger.min() < sums[fullest]:
            mine, its = np.unravel_index(larger.argmin(), larger.shape)
            items[fullest, mine], items[other, its] = items[other, its], items[fullest, mine]
            return True
    return False
