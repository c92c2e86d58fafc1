"""Ids that callers give."""

from __future__ import annotations

from collections.abc import Iterable


def first_twice(ids: Iterable[str]) -> str | None:
    """The first id that was there before; None if all differ."""
    seen: set[str] = set()
    return next((each for each in ids if each in seen or seen.add(each)), None)
