"""Which rollouts of a batch a process makes: those of whole pairs, or a part of one pair's.

With as many pairs as processes or more, a process has whole pairs. With more processes than pairs (the release puts
16 pairs on 64 GPUs) each pair stands on several consecutive ones, and each of them makes some of its generations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from umer1.training.settings import RLConfig
from umer1_kernels.distributed import gather_values, rank_and_size


@dataclass(frozen=True, slots=True)
class RolloutShare:
    """One process's share of N pairs with G generations per side.

    Attributes:
        rank, processes: its number among those that have different pairs, and how many of these there are.
        part, parts: which part of its pair's generations it makes, of how many; 0 of 1 for whole pairs.
        rollouts: generations per pair and side that it makes.
        group: the process group, None in one process.
    """

    rank: int
    processes: int
    part: int
    parts: int
    rollouts: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, config: RLConfig, group: dist.ProcessGroup | None) -> RolloutShare:
        """This process's share.

        Raises:
            ValueError: pairs or generations do not divide among the processes.
        """
        rank, world_size = rank_and_size(group)
        parts = config.processes_per_pair(world_size)
        return cls(
            rank // parts, world_size // parts, rank % parts, parts, config.generations // parts, group
        )  # fmt: skip

    @property
    def process(self) -> int:
        """Its number among all processes."""
        return self.rank * self.parts + self.part

    @property
    def first(self) -> int:
        """The first of its generations among its pair's."""
        return self.part * self.rollouts

    def candidates(self, mine: Tensor) -> Tensor:
        """What this process has of its pairs' generations, [n, rollouts, ...], as [n, G, ...]; where pairs are in
        parts, those of all N pairs, [N, G, ...]."""
        if self.parts == 1:
            return mine
        return gather_values(mine, self.group).reshape(self.processes, -1, *mine.shape[2:])

    @property
    def candidates_group(self) -> dist.ProcessGroup | None:
        """The processes whose `candidates` are different pairs."""
        return self.group if self.parts == 1 else None

    def own(self, values: Tensor) -> Tensor:
        """This process's part of values [2, N or n, G] or [2, N or n] of `candidates`."""
        if self.parts == 1:
            return values
        values = values[:, self.rank : self.rank + 1]
        return values if values.ndim == 2 else values[:, :, self.first : self.first + self.rollouts]
