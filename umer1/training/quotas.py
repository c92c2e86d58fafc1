"""How many pairs of each source an epoch has when sources have weights, and which."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np

from umer1.training.shuffling import Shuffle


class Quotas:
    """Shares of the sources in proportion to their weights (VLM2Vec's `weight`), exact in every epoch.

    VLM2Vec draws each sub-batch's source at random with these probabilities; here every epoch has that
    expectation rounded to whole pairs. A source is an endless row of shuffled passes over its pairs, of which each
    epoch takes the next stretch.

    Args:
        names: the distinct sources. codes: [n], each pair's place in `names`.
        weights: by name; 0 leaves a source out.
    """

    def __init__(
        self, names: list, codes: np.ndarray, weights: Mapping[Hashable, float], seed: int
    ):
        if missing := [name for name in names if name not in weights]:
            raise ValueError(f"weights: none for source {missing[0]!r}")
        if unknown := [name for name in weights if name not in set(names)]:
            raise ValueError(f"weights: no pairs of source {unknown[0]!r}")
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"weights: wants a number from 0 for source {name!r}, got {weight}"
                )
        share = np.array([weights[name] for name in names], dtype=np.float64)
        if not share.sum() > 0:
            raise ValueError("weights: wants at least one above 0")
        self.counts = _whole(share / share.sum() * len(codes), len(codes))
        self.seed = seed
        order = np.argsort(codes, kind="stable")
        self._pairs = np.split(order, np.bincount(codes, minlength=len(names)).cumsum()[:-1])

    def draw(self, epoch: int) -> np.ndarray:
        """Pair numbers of an epoch, source by source, int64 [n]; a pair can be there more than once."""
        drawn = []
        for code, (pairs, count) in enumerate(zip(self._pairs, self.counts.tolist())):
            begin, end = epoch * count, (epoch + 1) * count
            for number in range(begin // len(pairs), -(-end // len(pairs))):
                first = number * len(pairs)
                shuffled = Shuffle(self.seed, code, number, 1)(pairs)
                drawn.append(shuffled[max(begin - first, 0) : end - first])
        return np.concatenate(drawn)


def _whole(wanted: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near `wanted` that sum to `total`: the largest fractions are rounded up."""
    counts = np.floor(wanted).astype(np.int64)
    missing = total - int(counts.sum())
    counts[np.argsort(-(wanted - counts), kind="stable")[:missing]] += 1
    return counts
