"""How often a model's samples solved each pair: the file that tells hard pairs from easy ones.

One JSON object per line: {"pair": 17, "right": 3, "samples": 8}; `pair` counts from 0 in the data. With
equal numbers of samples the order by pass@k is the same for every k, that of right / samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from umer1.data.scan import RecordError, scan

UNKNOWN = 2.0  # of pairs that the file does not name: they come after all others


def read_pass_rates(path: str | Path, pairs: int) -> np.ndarray:
    """float64 [pairs], right / samples (pass@1), UNKNOWN where the file says nothing.

    Raises RecordError naming file, record and field.
    """
    rates = np.full(pairs, UNKNOWN)
    for number, (*_, row) in enumerate(scan(path)):
        where = f"{path}: record {number}"
        values = [row.get(name) for name in ("pair", "right", "samples")]
        if not all(type(value) is int for value in values):
            raise RecordError(f"{where}: wants whole numbers 'pair', 'right', 'samples', got {row}")
        pair, right, samples = values
        if not 0 <= pair < pairs:
            raise RecordError(f"{where}: pair {pair}: the data has {pairs}; is it of another set?")
        if not 0 <= right <= samples or samples < 1:
            raise RecordError(f"{where}: {right} right of {samples} samples")
        rates[pair] = right / samples
    return rates
