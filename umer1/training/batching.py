"""Which pairs meet in a batch.

The released code takes its negatives from wherever the file order and exactly 64 GPUs put them. Here groups of
one source are explicit: a batch is a fixed list of pair numbers for (seed, step), whatever the number of
processes, and after a resume.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence


class GroupedBatches:
    """Batches made of same-source groups.

    Args:
        sources: source name of each pair.
        batch_size: pairs per global batch (over all processes).
        group_size: pairs of one source that stand together; divides batch_size. Pairs left over when a source does
            not divide into whole groups meet in mixed groups; only pairs that do not fill the last batch wait for
            the next epoch's shuffle.
        seed: with the epoch, decides everything.
        target_keys: if given, one key per pair; a group avoids holding the same key twice (a duplicate target would
            be its twin's false negative) as long as the source has other pairs left.
    """

    def __init__(
        self,
        sources: Sequence[str],
        batch_size: int,
        group_size: int,
        seed: int = 0,
        target_keys: Sequence[Hashable] | None = None,
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
        self.sources, self.target_keys = list(sources), target_keys
        self.batch_size, self.group_size, self.seed = batch_size, group_size, seed

    @property
    def batches_per_epoch(self) -> int:
        return len(self.sources) // self.batch_size

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch, each a list of `batch_size` pair numbers."""
        chance = random.Random(f"{self.seed}/{number}")
        by_source = defaultdict(list)
        for index, source in enumerate(self.sources):
            by_source[source].append(index)
        groups, left_over = [], []
        for source in sorted(by_source):
            members = by_source[source]
            chance.shuffle(members)
            whole, rest = self._cut(members)
            groups += whole
            left_over += rest
        chance.shuffle(left_over)
        groups += [
            left_over[i : i + self.group_size] for i in range(0, len(left_over), self.group_size)
        ]
        partial = [group for group in groups if len(group) < self.group_size]
        groups = [group for group in groups if len(group) == self.group_size]
        chance.shuffle(groups)
        order = [index for group in groups + partial for index in group]
        return [
            order[i : i + self.batch_size]
            for i in range(0, self.batches_per_epoch * self.batch_size, self.batch_size)
        ]

    def batches(self, start_step: int = 0) -> Iterator[list[int]]:
        """Batches for ever, from global step `start_step` (a resumed run sees what the killed one would have)."""
        number, skip = divmod(start_step, self.batches_per_epoch)
        while True:
            yield from self.epoch(number)[skip:]
            number, skip = number + 1, 0

    def _cut(self, members: list[int]) -> tuple[list[list[int]], list[int]]:
        if self.target_keys is None:
            whole = len(members) // self.group_size * self.group_size
            return [
                members[i : i + self.group_size] for i in range(0, whole, self.group_size)
            ], members[whole:]
        waiting, groups = members, []
        while len(waiting) >= self.group_size:
            group, seen, passed_over = [], set(), []
            for index in waiting:
                if len(group) < self.group_size and self.target_keys[index] not in seen:
                    group.append(index)
                    seen.add(self.target_keys[index])
                else:
                    passed_over.append(index)
            missing = self.group_size - len(group)
            groups.append(group + passed_over[:missing])
            waiting = passed_over[missing:]
        return groups, waiting


def rank_slice(batch: list[int], rank: int, world_size: int) -> list[int]:
    """This process's consecutive share of a global batch."""
    if len(batch) % world_size:
        raise ValueError(
            f"batch_size {len(batch)} is not a multiple of the number of processes {world_size}"
        )
    share = len(batch) // world_size
    return batch[rank * share : (rank + 1) * share]
