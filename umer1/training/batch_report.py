"""What a training says about its batches before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from umer1.training.batching import GroupedBatches, rank_slices
from umer1.training.packing import efficiency, plan_packs, planner

SAMPLE = 32  # batches of the first epoch that are looked at


def describe_batches(
    batches: GroupedBatches,
    lengths: np.ndarray | Sequence[int] | None = None,
    *,
    world_size: int = 1,
    capacity: int | None = None,
    balanced: bool = True,
) -> str:
    """A line on groups and sources; with the pairs' lengths one on tokens; with a capacity one on packs.

    Args:
        lengths: estimated tokens of each pair, both sides together.
        capacity: tokens of a microbatch; 0: a process's whole batch is one. The packs here are of whole pairs; a
            step's, of single sides, are fuller.
        balanced: the run gives its lengths to `rank_slice`.
    """
    lines = [_groups(batches)]
    shares: list[list[np.ndarray]] = []
    if lengths is not None:
        lengths = np.asarray(lengths, dtype=np.int64)
        sample = batches.epoch_array(0)
        sample = sample[:: -(-len(sample) // SAMPLE)]
        slices = [
            rank_slices(batch, world_size, lengths[batch] if balanced else None)
            for batch in sample.tolist()
        ]
        shares = [[lengths[share] for share in ranks] for ranks in slices]
        lines.append(_tokens(shares, world_size))
    if capacity is not None:
        lines.append(_packs([share for ranks in shares for share in ranks], capacity))
    return "\n".join(lines)


def _groups(batches: GroupedBatches) -> str:
    groups = batches.batch_size // batches.group_size
    counts = np.array([count for count in batches.source_counts.values() if count])
    mixed = int((counts % batches.group_size).sum()) // batches.group_size
    return (
        f"batches: {counts.sum():,} pairs of {len(counts)} sources; {batches.batch_size} pairs a batch, "
        f"{groups} x {batches.group_size} of one source; {batches.batches_per_epoch:,} batches an epoch, "
        f"{mixed} of its groups of mixed sources"
    )


def _tokens(shares: list[list[np.ndarray]], world_size: int) -> str:
    """shares: the lengths of every process's pairs, of each batch."""
    of_ranks = np.array([[share.sum() for share in ranks] for ranks in shares])
    tokens = of_ranks.sum(1)
    low, middle, high = (round(value) for value in np.percentile(tokens, (5, 50, 95)))
    line = f"tokens a batch, estimated: {middle:,} ({low:,} to {high:,} for 9 of 10)"
    if world_size > 1:
        fullest = np.mean(of_ranks.max(1) / tokens) * world_size
        line += f"; the fullest of {world_size} processes has {fullest:.3f} x the mean"
    return line


def _packs(shares: list[np.ndarray], capacity: int) -> str:
    """shares: the lengths of a process's pairs, of each batch and process; empty where nobody knows them yet."""
    if not capacity:
        return "packs: one a batch and process, whatever its tokens (microbatch_tokens: 0)"
    if not shares:
        return f"packs of at most {capacity:,} tokens, none padded (planner: {planner().name})"
    plans = [plan_packs(share, capacity) for share in shares]
    full = [efficiency(share, plan, capacity) for share, plan in zip(shares, plans)]
    return (
        f"packs of {capacity:,} tokens: {np.mean([len(plan) for plan in plans]):.1f} a batch and process, "
        f"{100 * np.mean(full):.1f} % of their room real tokens, none padded (planner: {planner().name})"
    )
