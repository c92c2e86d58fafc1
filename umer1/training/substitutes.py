"""What a pair that cannot be used is replaced by.

The choice depends on (seed, number of the batch) and the global batch alone: it is the same whatever the number of
processes, and in a resumed run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from umer1.data.store import PairStore


class Substitutes:
    def __init__(self, store: PairStore, seed: int):
        self.store, self.seed = store, seed

    def of(self, number: int, batch: list[int], batch_number: int) -> Iterator[int]:
        """Other pairs of the same source that are not in the batch, best first.

        The pairs of a source in the batch share out those outside of it: each has spares of its
        own, so that two of them never choose the same one, on whatever process they are. Only a
        source with fewer spares than bad pairs lets one go on to the others' spares.
        """
        sources = self.store.sources
        source = sources[number]
        together = [other for other in batch if sources[other] == source]
        spare = np.setdiff1d(np.flatnonzero(sources == source), together)
        chance = np.random.default_rng([self.seed, batch_number, int(source)])
        place, order = together.index(number), chance.permutation(spare)
        own = np.arange(len(order)) % len(together) == place
        yield from order[own].tolist()
        yield from np.roll(order[~own], -place).tolist()
