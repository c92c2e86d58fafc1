"""Bootstrap over queries: how far a mean would move had other queries been asked.

Queries are drawn with replacement, all columns of a task with the same draws: a difference of two
columns is then paired, and its interval is that of the difference. Means over tasks resample each
task's queries on their own and average, so the tasks themselves are taken as given (Efron 1979,
percentile intervals).
K columns, N queries, B draws.
"""

import zlib

import numpy as np

DRAWS = 1000
LEVEL = 0.95
# drawn rows held at a time: 8 bytes each, times the columns
CHUNK = 1 << 20


def resampled_means(
    values: np.ndarray, name: str, *, seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """float64 [K, B]: means of `values` [K, N] over B resamples of the N queries.

    The same name, seed, N and number of draws give the same resamples, whatever the values are.
    """
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"values: got {list(values.shape)}, need [columns, queries], not empty")
    size = values.shape[1]
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), size])
    means = np.empty((len(values), draws))
    # fixed by the number of queries alone, so that it cannot change the stream of a name
    step = max(1, CHUNK // size)
    for start in range(0, draws, step):
        stop = min(draws, start + step)
        rows = generator.integers(0, size, (stop - start, size))
        for column, row in enumerate(values):
            means[column, start:stop] = row[rows].mean(axis=1)
    return means


def interval(means: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap means [B]."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
