"""What a training says about its batches before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from umer1.training.batching import GroupedBatches, rank_slice
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
        capacity: tokens of a microbatch. The packs here are of whole pairs; a step's, of single sides, are fuller.
        balanced: the run gives its lengths to `rank_slice`.
    """
    groups = batches.batch_size // batches.group_size
    counts = np.array([count for count in batches.source_counts.values() if count])
    mixed = int((counts % batches.group_size).sum()) // batches.group_size
    lines = [
        f"batches: {counts.sum():,} pairs of {len(counts)} sources; {batches.batch_size} pairs a batch, "
        f"{groups} x {batches.group_size} of one source; {batches.batches_per_epoch:,} batches an epoch, "
        f"{mixed} of its groups of mixed sources"
    ]
    if lengths is None:
        return lines[0]
    lengths = np.asarray(lengths, dtype=np.int64)
    sample = batches.epoch_array(0)
    sample = sample[:: -(-len(sample) // SAMPLE)]
    tokens = lengths[sample].sum(1)
    low, middle, high = (round(value) for value in np.percentile(tokens, (5, 50, 95)))
    line = f"tokens a batch: {middle:,} ({low:,} to {high:,} for 9 of 10)"
    shares = [
        [
            rank_slice(batch, rank, world_size, lengths[batch] if balanced else None)
            for rank in range(world_size)
        ]
        for batch in sample.tolist()
    ]
    if world_size > 1:
        fullest = [max(lengths[share].sum() for share in ranks) for ranks in shares]
        line += f"; the fullest of {world_size} processes has {np.mean(fullest / tokens) * world_size:.3f} x the mean"
    lines.append(line)
    if capacity is not None:
        flat = [lengths[share] for ranks in shares for share in ranks]
        plans = [plan_packs(tokens, capacity) for tokens in flat]
        full = [efficiency(tokens, plan, capacity) for tokens, plan in zip(flat, plans)]
        lines.append(
            f"packs of {capacity:,} tokens: {np.mean([len(plan) for plan in plans]):.1f} a batch and process, "
            f"{100 * np.mean(full):.1f} % of their room real tokens, none padded (planner: {planner().name})"
        )
    return "\n".join(lines)
