"""Gradients that a forward made: scaled in place by the first backward, made again by a second one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SCALED_AT_ONCE = 2**24  # numbers widened at a time


class Held:
    """The only reference to the gradients, so that the first backward may hand them out as they are."""

    def __init__(self, gradients: list[Tensor]):
        self._gradients: list[Tensor] | None = gradients

    def take(self, upstream: Tensor, again: Callable[[], list[Tensor]]) -> list[Tensor]:
        """The gradients times `upstream` (a scalar). `again` makes them for a second backward."""
        gradients, self._gradients = self._gradients, None
        if gradients is None:
            gradients = again()
        return [scale_(gradient, upstream) for gradient in gradients]


def scale_(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient *= factor, with the factor in float32: in bfloat16 it would be off by up to 0.4 %."""
    # most losses are not scaled at all; while a compiler traces, the factor has no value to look at
    if type(factor) is Tensor and factor.device.type == "cpu" and factor == 1:
        return gradient
    # aten's CPU kernels keep a scalar in float32
    if factor.device.type == "cpu" or gradient.dtype in (torch.float32, torch.float64):
        return gradient.mul_(factor)
    for part in gradient.view(-1).split(SCALED_AT_ONCE):
        part.copy_(part.float().mul_(factor))
    return gradient
