"""How one vector is stored: float32, float16, or int8 with a scale of its own.

Shapes: n rows, d dimension. int8 takes d + 4 bytes: the largest number of a row is 127 steps.
"""

from __future__ import annotations

import numpy as np


class RowFormat:
    """`record`: the numpy dtype of one stored row."""

    def __init__(self, dtype: str, dimension: int):
        self.dtype, self.dimension = dtype, dimension
        numbers = {"float32": "<f4", "float16": "<f2", "int8": "i1"}[dtype]
        parts = [("values", numbers, (dimension,))]
        if dtype == "int8":
            parts.insert(0, ("scale", "<f4"))
        self.record = np.dtype(parts)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [n, d] -> records [n]."""
        records = np.empty(len(vectors), self.record)
        if self.dtype != "int8":
            records["values"] = vectors
            return records
        scale = np.abs(vectors).max(axis=1, initial=0) / 127
        records["scale"] = scale
        records["values"] = np.rint(vectors / np.where(scale, scale, 1)[:, None])
        return records

    def decode(self, records: np.ndarray) -> np.ndarray:
        """records [n] -> float32 [n, d]; float32 rows that lie side by side are not copied."""
        values = records["values"]
        if self.dtype == "int8":
            # numpy converts twice as fast when told what to convert to
            return np.multiply(values, records["scale"][:, None], dtype=np.float32)
        return np.ascontiguousarray(values, dtype=np.float32)
