"""Which pages of key-value memory are whose. Pure bookkeeping: the memory itself is in memory.py.

A page holds `PAGE_LENGTH` tokens of one owner: a prompt's prefix, shared read-only by all of its
rows, or the suffix of one row. An owner takes all the pages it may ever need at once, so nothing
that has started can run out of memory.
"""

from __future__ import annotations

from collections.abc import Iterable

PAGE_LENGTH = 64
SCRATCH = 0  # the page that rows without a request write to; never handed out


def pages_for(tokens: int) -> int:
    return -(-tokens // PAGE_LENGTH)


class PagePool:
    """Pages 1 to `total`. The lowest free ones are handed out last in, first out: memory that was
    never used stays untouched."""

    def __init__(self, total: int):
        if total < 1:
            raise ValueError(f"total: got {total} pages, wants at least 1")
        self.total = total
        self._free = list(range(total, SCRATCH, -1))
        self._used = bytearray(total + 1)

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` pages; ask `free` first."""
        if not 0 <= count <= len(self._free):
            raise RuntimeError(f"{count} pages were asked for, {len(self._free)} are free")
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._used[page] = 1
        return pages

    def give_back(self, pages: Iterable[int]) -> None:
        for page in pages:
            if not self._used[page]:
                raise RuntimeError(f"page {page} was given back twice")
            self._used[page] = 0
            self._free.append(page)

    def check(self, owned: Iterable[int]) -> None:
        """AssertionError unless every page is either free or owned by exactly one of the owners."""
        owned = list(owned)
        assert len(set(owned)) == len(owned), "a page has two owners"
        assert len(set(self._free)) == len(self._free), "a page is free twice"
        assert set(owned).isdisjoint(self._free), "a page is owned and free"
        assert len(owned) + len(self._free) == self.total, "a page is lost"
        assert sum(self._used) == len(owned) and not self._used[SCRATCH]
