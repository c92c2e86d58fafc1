"""Which targets of a batch mean the same: those with equal text and media, and those that the data calls the same."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from umer1.training.collate import SFTBatch
from umer1_kernels.distributed import gather_values, rank_and_size

# each goes one target further; one is enough unless a target comes with several `pos_id`
ROUNDS = 4


def with_common_ids(batch: SFTBatch, group=None) -> SFTBatch:
    """The batch with equal ids where targets or hard negatives, of whatever process, have equal
    contents or equal names (`pos_id`), directly or by way of others.

    One gather of two numbers per target: a process does not know what names the others' records give.
    """
    if batch.names is None and group is None:
        return batch
    contents = torch.cat([batch.pair_ids, batch.negative_ids])
    names = contents if batch.names is None else batch.names
    gathered = gather_values(torch.stack([contents, names], 1), group)
    contents, names = gathered.T.contiguous()
    ids = contents
    for _ in range(ROUNDS):
        for of_each in (names, contents):
            ids = _smallest_of_equal(ids, of_each)
    rank, processes = rank_and_size(group)
    own = ids.chunk(processes)[rank]
    pairs = len(batch.pair_ids)
    return replace(batch, pair_ids=own[:pairs], negative_ids=own[pairs:], names=None)


def _smallest_of_equal(ids: Tensor, of_each: Tensor) -> Tensor:
    """The smallest id of all places whose `of_each` is the same. Shapes depend on no value: no wait for the device."""
    place = torch.searchsorted(of_each.sort().values, of_each)
    smallest = torch.empty_like(ids).scatter_reduce(0, place, ids, "amin", include_self=False)
    return smallest[place]
