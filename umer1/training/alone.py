"""A step without a run around it: one process, no files, no schedule; for benchmarks and profiles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor


class Alone:
    """What `add_gradients` and `learn` want of a Run and its Parallel.

    Args:
        update: clips, steps and clears; returns the norm of the gradient before clipping.
    """

    world_size, group = 1, None

    def __init__(
        self, update: Callable[[], Tensor | float], device: torch.device, processor=None
    ) -> None:
        self._update, self.device, self.processor = update, device, processor
        self.parallel = self.accelerator = self
        self.autocast = nullcontext

    def part(self, *, last: bool):
        """Nobody else has gradients to wait for."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def largest(self, number: int) -> int:
        return number

    def update(self, numbers=None, where=None) -> float:
        return float(self._update())
