"""`PairStore`: training pairs of any number of files, read one at a time.

store = open_sft("sft.json", "train")
store[12345], store.where(12345), store.source_names[store.sources[12345]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from umer1.data.estimates import TokenRates
from umer1.data.index import FileIndex
from umer1.data.records import Pair


class Rows(Protocol):
    """Rows of one file, by number; picklable and cheap to unpickle."""

    def __len__(self) -> int: ...
    def read(self, number: int) -> dict[str, Any]: ...
    def where(self, number: int) -> str: ...
    def tokens(self, rates: TokenRates) -> np.ndarray: ...


@dataclass(slots=True)
class Part:
    """Rows of one file and what makes pairs of them.

    Attributes:
        pair: (row, where) -> Pair; raises RecordError that begins with where. Picklable.
        source: the pairs' data set.
        chosen: int64 numbers of the rows used, in order; None for all.
        weight: sampling weight of the source, where the set's configuration gives one.
        has_responses: whether its pairs can train generation.
        rows_name_sources: a row that names a data set is of that one instead.
    """

    rows: Rows
    pair: Callable[[dict, str], Pair]
    source: str
    chosen: np.ndarray | None = None
    weight: float | None = None
    has_responses: bool = True
    rows_name_sources: bool = True

    def __len__(self) -> int:
        return len(self.rows) if self.chosen is None else len(self.chosen)

    def row(self, number: int) -> int:
        return number if self.chosen is None else int(self.chosen[number])

    def sources(self) -> tuple[np.ndarray, list[str]]:
        """int32 source of each pair, and the names it counts."""
        if not (self.rows_name_sources and isinstance(self.rows, FileIndex)):
            return np.zeros(len(self), np.int32), [self.source]
        names = [name or self.source for name in self.rows.sources]
        return self._of_chosen(self.rows.records["source"]), names

    def lengths(self, rates: TokenRates) -> np.ndarray:
        """int32 estimated tokens of each pair's two sides together."""
        return self._of_chosen(self.rows.tokens(rates))

    def _of_chosen(self, column: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(column if self.chosen is None else column[self.chosen])


class PairStore(Sequence):
    """Pairs by number, over all parts in order. Raises RecordError where a pair does not fit.

    Workers get the names of files, not their content: pickling costs no more than the choice of
    rows.
    """

    def __init__(self, parts: Iterable[Part]):
        self.parts = [part for part in parts if len(part)]
        if not self.parts:
            raise ValueError("data: has no pairs")
        self._starts = np.cumsum([0] + [len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int | slice) -> Pair | list[Pair]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        part, row = self._place(number)
        return part.pair(part.rows.read(row), part.rows.where(row))

    def where(self, number: int) -> str:
        """File and record of a pair, for messages."""
        part, row = self._place(number)
        return part.rows.where(row)

    @property
    def sources(self) -> np.ndarray:
        """int32 [N]; which of `source_names` each pair is of."""
        return self._columns[0]

    @property
    def source_names(self) -> list[str]:
        return self._columns[1]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [N]; estimated tokens of both sides together, at the released limits."""
        return self.lengths_at(TokenRates())

    def lengths_at(self, rates: TokenRates) -> np.ndarray:
        """`lengths` where text and media cost something else (`umer1.data.estimates`)."""
        return np.concatenate([part.lengths(rates) for part in self.parts])

    @property
    def source_weights(self) -> dict[str, float] | None:
        """Relative sampling weight of each source; None unless the set's configuration gives
        some. A source without one of its own counts 1. ValueError names a weight of no source."""
        given = {part.source: part.weight for part in self.parts if part.weight is not None}
        if not given:
            return None
        if unknown := sorted(set(given) - set(self.source_names)):
            known = ", ".join(sorted(self.source_names))
            raise ValueError(f"weight: given for {unknown[0]!r}; the sources are {known}")
        return {name: given.get(name, 1.0) for name in self.source_names}

    @property
    def has_responses(self) -> bool:
        """Whether every pair can train generation."""
        return all(part.has_responses for part in self.parts)

    def of_sources(self, names: Iterable[str]) -> PairStore:
        """The pairs of these sources alone. ValueError names one that does not exist."""
        wanted = set(names)
        if unknown := sorted(wanted - set(self.source_names)):
            known = ", ".join(sorted(self.source_names))
            raise ValueError(f"sources: no pairs of {unknown[0]!r}; the data has {known}")
        parts = []
        for part in self.parts:
            numbers, own = part.sources()
            keep = np.isin(numbers, [n for n, name in enumerate(own) if name in wanted])
            rows = np.flatnonzero(keep) if part.chosen is None else part.chosen[keep]
            parts.append(replace(part, chosen=rows))
        return PairStore(parts)

    def __getstate__(self):
        made_again = ("_columns", "lengths")
        return {name: value for name, value in self.__dict__.items() if name not in made_again}

    @cached_property
    def _columns(self) -> tuple[np.ndarray, list[str]]:
        numbers: dict[str, int] = {}
        columns = []
        for part in self.parts:
            own, names = part.sources()
            used = np.unique(own)
            translation = np.zeros(len(names), np.int32)
            for number in used:
                translation[number] = numbers.setdefault(names[number], len(numbers))
            columns.append(translation[own])
        return np.concatenate(columns), list(numbers)

    def _place(self, number: int) -> tuple[Part, int]:
        if not -len(self) <= number < len(self):
            raise IndexError(f"pair {number} of {len(self)}")
        number = int(number) % len(self)
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        part = self.parts[place]
        return part, part.row(number - int(self._starts[place]))
