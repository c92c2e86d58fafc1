"""The module that a launcher wraps: everything that touches weights happens inside its forward.

DDP, ZeRO-3 and FSDP2 hang their gathering and reducing of weights on the forward of the module they are
given. Losses that read the head's weight belong inside it as well as the decoder's layers, so a step is
a small callable object that gets the model there:

    trainee = accelerator.prepare(Trainee(model))
    outputs = trainee(SFTForward(part, ...))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from umer1.model.qwen2_vl import Qwen2VL

LARGEST_SCALE = 100.0  # as CLIP has it: a larger one makes the loss of a few pairs the whole loss


class Trainee(nn.Module):
    """A model in training, and the learnable scale of its contrastive losses if there is one.

    forward(work) calls `work(model)` with every weight in place. Its outputs are tensors, or a NamedTuple,
    tuple or dict of tensors: the hooks that bring the weights back for the backward pass look inside these alone.

    Attributes:
        model: the Qwen2VL, never called from outside while training.
        log_scale: log of the scale, a float32 parameter [1] (FSDP2 refuses scalars); None: it is fixed.
    """

    def __init__(self, model: Qwen2VL, scale: float | None = None) -> None:
        """`scale`: start of a learnable scale, at most LARGEST_SCALE."""
        super().__init__()
        self.model = model
        if scale is not None and not 0 < scale <= LARGEST_SCALE:
            raise ValueError(f"scale: got {scale}, a learnable one wants 0 < scale <= 100")
        log_scale = None if scale is None else nn.Parameter(torch.tensor([math.log(scale)]))
        self.register_parameter("log_scale", log_scale)

    def forward(self, work: Callable[[Qwen2VL], Any]) -> Any:
        """`work(model)`; a result with a field `scale` (a NamedTuple) gets the learnable scale there."""
        result = work(self.model)
        if self.log_scale is not None and hasattr(result, "scale"):
            result = result._replace(scale=self.scale())
        return result

    def scale(self) -> Tensor:
        """The learnable scale; `clamp_scale` keeps it in bounds, so that its gradient never dies there."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """After each optimizer step: a scale that ran over the limit stands at it."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE))
