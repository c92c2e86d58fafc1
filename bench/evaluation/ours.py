"""Our evaluation's way to embed: one call of the embedder for each side of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.evaluation.workload import MAX_NEW_TOKENS, EvaluationWorkload

ROWS = 32  # of `umer1 eval mmeb`


def vectors(workload: EvaluationWorkload, rows: int = ROWS) -> Tensor:
    """Gen vectors of all items, float32 [items, H]; nothing of an earlier run is found."""
    embedder, found = workload.embedder, []
    embedder.engine.wake()
    for side in workload.sides:
        encoded = embedder.encode(
            side.items,
            mode="gen",
            max_new_tokens=MAX_NEW_TOKENS,
            batch_size=rows,
            progress=False,
        )
        found.append(torch.from_numpy(encoded.gen))
    embedder.engine.sleep()
    return torch.cat(found)
