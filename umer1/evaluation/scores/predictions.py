"""Rows of `_pred.jsonl`, made when they are asked for: names and labels are not held twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Predictions(Sequence):
    """Per query {"prediction": ranked names, "label": names, "rel_scores": grades or None}.

    rows: per query the candidate rows, best first. names: of the candidates, by row.
    """

    rows: list[np.ndarray]
    names: Sequence
    labels: list[list]
    grades: list[list[float] | None]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        return {
            "prediction": [self.names[row] for row in self.rows[number].tolist()],
            "label": self.labels[number],
            "rel_scores": self.grades[number],
        }
