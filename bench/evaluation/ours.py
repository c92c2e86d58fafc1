"""Our evaluation's way to embed: all sides of all tasks are one stream of items."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.evaluation.workload import MAX_NEW_TOKENS, EvaluationWorkload

ROWS = 64  # what an evaluation takes on a CPU with this model


def vectors(workload: EvaluationWorkload, rows: int = ROWS) -> Tensor:
    """Gen vectors of all items, float32 [items, H]; nothing of an earlier run is found."""
    embedder, items = workload.embedder, [item for side in workload.sides for item in side.items]
    found = np.empty((len(items), embedder.dimension), np.float32)
    embedder.engine.wake()
    stream = embedder.stream(items, mode="gen", max_new_tokens=MAX_NEW_TOKENS, batch_size=rows)
    for place, embeddings in stream:
        found[place] = embeddings.gen[0]
    embedder.engine.sleep()
    return torch.from_numpy(found)
