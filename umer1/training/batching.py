"""Which pairs meet in a batch.

The released code takes its negatives from wherever the file order and exactly 64 GPUs put them. Here groups of
one source are explicit: a batch is a fixed list of pair numbers for (seed, step), whatever the number of
processes, and after a resume. docs/batching.md says what that makes equal.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from umer1.training.balance import even_shares
from umer1.training.quotas import Quotas
from umer1.training.shuffling import Shuffle, ascending, numbered


class GroupedBatches:
    """Batches made of same-source groups; the groups, and with them the sources, are interleaved at random.

    Args:
        sources: source of each pair, by name or as an integer code (numpy array).
        batch_size: pairs per global batch (over all processes).
        group_size: pairs of one source that stand together; divides batch_size. 1: batches of any pairs;
            batch_size: batches of one source. Pairs left over when a source does not divide into whole groups meet
            in mixed groups; only pairs that do not fill the last batch wait for the next epoch's shuffle.
        seed: with the epoch, decides everything.
        target_keys: if given, one key per pair; a group avoids holding the same key twice (a duplicate target would
            be its twin's false negative) as far as the source has other pairs.
        weights: if given, each source's share of the pairs, relative to the others; every source has one. An
            epoch then still has as many pairs as there are, but a source can come more or less than once: it
            goes on where the epoch before stopped, and no pair comes again before all of its source have.
    """

    def __init__(
        self,
        sources: np.ndarray | Sequence[str],
        batch_size: int,
        group_size: int,
        seed: int = 0,
        target_keys: Sequence[Hashable] | None = None,
        weights: Mapping[Hashable, float] | None = None,
    ):
        if batch_size < 1 or group_size < 1 or batch_size % group_size:
            raise ValueError(
                f"batch_size {batch_size} must be a multiple of group_size {group_size}"
            )
        if len(sources) < batch_size:
            raise ValueError(
                f"batch_size: got {batch_size}, but there are only {len(sources)} pairs"
            )
        if target_keys is not None and len(target_keys) != len(sources):
            raise ValueError(
                f"target_keys: got {len(target_keys)}, wants one per pair ({len(sources)})"
            )
        self.batch_size, self.group_size, self.seed = batch_size, group_size, seed
        self.names, self.codes = numbered(sources)
        self._keys = None if target_keys is None else numbered(target_keys)[1]
        self._quotas = None
        if weights is not None:
            self._quotas = Quotas(self.names, self.codes, weights, seed)
            if self._keys is None:  # a pair that comes twice must not meet itself in a group
                self._keys = np.arange(len(self.codes))

    @property
    def batches_per_epoch(self) -> int:
        return len(self.codes) // self.batch_size

    @property
    def source_counts(self) -> dict[Hashable, int]:
        """Pairs of each source in an epoch."""
        counts = np.bincount(self.codes) if self._quotas is None else self._quotas.counts
        return dict(zip(self.names, counts.tolist()))

    def steps(self, epochs: float, accumulation: int = 1) -> int:
        """Whole optimizer steps, of `accumulation` batches each, in so many epochs (2.5: two and a half); at least 1."""
        if not epochs > 0 or not math.isfinite(epochs):
            raise ValueError(f"epochs: wants a number above 0, got {epochs}")
        # as written: 0.29 of 100 batches is 29, not floor(28.999999999999996)
        return max(1, math.floor(Fraction(str(epochs)) * self.batches_per_epoch / accumulation))

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch, each a list of `batch_size` pair numbers."""
        return self.epoch_array(number).tolist()

    def epoch_array(self, number: int) -> np.ndarray:
        """The batches of one epoch, int64 [batches_per_epoch, batch_size]."""
        shuffle = Shuffle(self.seed, number)
        pairs = np.arange(len(self.codes)) if self._quotas is None else self._quotas.draw(number)
        whole, left_over = self._groups(shuffle(pairs), self.codes, shuffle)
        mixed, last = self._groups(shuffle(left_over), np.zeros_like(self.codes), shuffle)
        groups = shuffle(np.concatenate([whole, mixed]))
        order = np.concatenate([groups.reshape(-1), last])
        used = self.batches_per_epoch * self.batch_size
        return order[:used].reshape(-1, self.batch_size)

    def batches(self, start_batch: int = 0) -> Iterator[list[int]]:
        """Batches for ever, from number `start_batch` on (a resumed run sees what the killed one would have)."""
        number, skip = divmod(start_batch, self.batches_per_epoch)
        while True:
            for batch in self.epoch_array(number)[skip:]:
                yield batch.tolist()
            number, skip = number + 1, 0

    def _groups(
        self, pairs: np.ndarray, codes: np.ndarray, shuffle: Shuffle
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shuffled pairs in whole groups of one code, int64 [groups, group_size], and the rest of each code."""
        if self._keys is not None:  # equal keys side by side
            pairs = pairs[ascending(shuffle.ranks(int(self._keys.max()) + 1)[self._keys[pairs]])]
        code = codes[pairs]
        order = np.argsort(code, kind="stable")
        pairs, code = pairs[order], code[order]
        counts = np.bincount(code, minlength=int(codes.max()) + 1)
        groups_of, rest_of = counts // self.group_size, counts % self.group_size
        place = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[code]
        # the rest at even distances, so that it too holds few equal keys
        passed = place * rest_of[code] // counts[code]
        kept = (place + 1) * rest_of[code] // counts[code] == passed
        rest, pairs, code, place = pairs[~kept], pairs[kept], code[kept], (place - passed)[kept]
        if self._keys is None:
            return pairs.reshape(-1, self.group_size), rest
        # dealt in turn, a key meets itself in a group only if there are more of it than groups
        first = np.cumsum(groups_of) - groups_of
        groups = np.empty((int(groups_of.sum()), self.group_size), dtype=np.int64)
        groups[first[code] + place % groups_of[code], place // groups_of[code]] = pairs
        return groups, rest


def rank_slice(
    batch: Sequence[int], rank: int, world_size: int, lengths: Sequence[int] | None = None
) -> list[int]:
    """One process's share of a global batch, see `rank_slices`."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: got {rank}, wants 0 to {world_size - 1}")
    return rank_slices(batch, world_size, lengths)[rank]


def rank_slices(
    batch: Sequence[int], world_size: int, lengths: Sequence[int] | None = None
) -> list[list[int]]:
    """Every process's share of a global batch: equally many pairs for each, in the batch's order.

    Args:
        lengths: tokens of each pair of the batch. Without them shares are consecutive; with them they have about
            equally many tokens, so that no process waits for the one with the long pairs. Which pairs meet as
            negatives is the same, since vectors are gathered over all processes.
    """
    if len(batch) % world_size:
        raise ValueError(
            f"batch_size {len(batch)} is not a multiple of the number of processes {world_size}"
        )
    if lengths is None or world_size == 1:
        share = len(batch) // world_size
        return [list(batch[rank * share : (rank + 1) * share]) for rank in range(world_size)]
    if len(lengths) != len(batch):
        raise ValueError(
            f"lengths: got {len(lengths)}, wants one per pair of the batch ({len(batch)})"
        )
    return [[batch[place] for place in share] for share in even_shares(lengths, world_size)]
