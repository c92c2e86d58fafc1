"""What is right: the labels of `_info.jsonl` rows as rows of the candidates' vectors."""

from collections.abc import Sequence

import numpy as np

from umer1.evaluation.scores.metrics import pair_grades
from umer1.evaluation.scores.metrics_batch import LabelTable


class LabelRows:
    """names: per query its labels as listed.

    Raises ValueError, naming the query, when grades do not pair with labels, and when two
    candidates have the name of a label.
    """

    def __init__(self, infos: Sequence[dict], names: Sequence):
        self.infos = infos
        self.names = [label_list(info) for info in infos]
        distinct = [self._pair(number)[0] for number in range(len(infos))]
        # only labels are looked up: a table of all names would be larger than the names
        row_of = dict.fromkeys(name for own in distinct for name in own)
        for row, name in enumerate(names):
            if name in row_of:
                if row_of[name] is not None:
                    raise ValueError(f"candidates: rows {row_of[name]} and {row} are both {name!r}")
                row_of[name] = row
        self.place_of = [
            {row_of[name]: place for place, name in enumerate(own) if row_of[name] is not None}
            for own in distinct
        ]

    def rows(self, number: int) -> np.ndarray:
        """int64: rows of a query's labels; a label that is no candidate has none."""
        return np.fromiter(self.place_of[number], dtype=np.int64)

    def places(self, number: int, rows: np.ndarray) -> list[int]:
        """For candidate rows: which distinct label of the query it is, -1 for none."""
        place_of = self.place_of[number]
        return [place_of.get(row, -1) for row in rows.tolist()]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(query, candidate row) of every label that is a candidate, int64 each."""
        queries = [number for number, own in enumerate(self.place_of) for _ in own]
        rows = [row for own in self.place_of for row in own]
        return np.array(queries, dtype=np.int64), np.array(rows, dtype=np.int64)

    def table(self, *, upstream_pairing: bool = False) -> LabelTable:
        """Grades of the distinct labels, as metrics_batch takes them."""
        numbers = range(len(self.infos))
        return LabelTable.of([self._pair(number, upstream_pairing)[1] for number in numbers])

    def _pair(self, number, upstream_pairing=False):
        grades = self.infos[number].get("rel_scores")
        try:
            return pair_grades(self.names[number], grades, upstream_pairing=upstream_pairing)
        except ValueError as error:
            raise ValueError(f"query {number}: {error}") from None


def label_list(info: dict) -> list:
    """`label_name` of an info row as a list."""
    label = info["label_name"]
    return list(label) if isinstance(label, list | tuple) else [label]
