"""Prompts whose keys and values are in memory: shared by content, kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from umer1.engine.pages import PagePool

KEPT = 4096  # unused prefixes kept at most: those of disc-only prompts have no pages to run out of


@dataclass(slots=True, eq=False)
class Prefix:
    """One prompt.

    key: of its content. filled: tokens prefilled so far. content: what the prefill needs, until it
    is done; result: what it leaves. holders: requests that use it. rows, place: rows that continue
    it, and its row of the prefix table while there are any.
    """

    key: Any
    tokens: int
    pages: list[int]
    content: Any
    filled: int = 0
    result: Any = None
    holders: int = 0
    rows: int = 0
    place: int = -1

    @property
    def ready(self) -> bool:
        return self.filled == self.tokens


class SharedPrefixes:
    """Prefixes by key; those without holders leave in the order of their last use."""

    def __init__(self, pages: PagePool):
        self.pages = pages
        self._by_key: dict[Any, Prefix] = {}
        self._unused: OrderedDict[Any, Prefix] = OrderedDict()

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: Any) -> Prefix | None:
        """The prefix of this content; it counts as used until the next `release`."""
        self._unused.pop(key, None)
        return self._by_key.get(key)

    def make(self, key: Any, tokens: int, pages: int, content: Any) -> Prefix:
        prefix = self._by_key[key] = Prefix(key, tokens, self.pages.take(pages), content)
        return prefix

    def release(self, prefix: Prefix) -> None:
        """One holder less; without any it stays until its room is needed."""
        prefix.holders -= 1
        if not prefix.holders:
            self._unused[prefix.key] = prefix
            if len(self._unused) > KEPT:
                self.drop(next(iter(self._unused.values())))

    def make_room(self, pages: int) -> bool:
        """Drop unused prefixes until so many pages are free; none if that would not be enough."""
        if pages <= self.pages.free:
            return True
        idle = sum(len(prefix.pages) for prefix in self._unused.values())
        if pages > self.pages.free + idle:
            return False
        while pages > self.pages.free:
            self.drop(next(iter(self._unused.values())))
        return True

    def drop(self, prefix: Prefix) -> None:
        self._unused.pop(prefix.key, None)
        del self._by_key[prefix.key]
        self.pages.give_back(prefix.pages)
        prefix.pages = []

    def drop_unused(self) -> None:
        """Forget every prefix that nobody holds: the weights have changed."""
        for prefix in list(self._unused.values()):
            self.drop(prefix)
