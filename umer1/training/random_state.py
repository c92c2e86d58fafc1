"""The state of every random generator of a process, kept in checkpoints."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from umer1.training.loop import Run


def random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(run: Run, folder: Path, summary: dict) -> None:
    """As it was; a process that was not there before gets a state of its own from seed, step and rank."""
    path = folder / f"rng-{run.parallel.rank:05d}.pt"
    if not path.exists() or summary["processes"] != run.parallel.world_size:
        chance = np.random.SeedSequence([run.config.seed, summary["step"], run.parallel.rank])
        first, second, third = (int(each) for each in chance.generate_state(3))
        random.seed(first)
        np.random.seed(second)
        torch.manual_seed(third)
        return
    state = torch.load(path, weights_only=False)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
