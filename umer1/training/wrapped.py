"""The module that distribution wraps: whatever touches weights happens inside its forward.

DDP, ZeRO-3 and FSDP2 gather, count and reduce through the hooks of one forward call; a weight that is read outside
of it is a shard, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from umer1.model.qwen2_vl import Qwen2VL


class Trainee(nn.Module):
    """`model` and what else is learned with it.

    forward(work) calls `work(model)` with every weight in place. Its outputs are tensors, or a NamedTuple, tuple or
    dict of tensors: the hooks that bring the weights back for the backward pass look inside these alone.
    """

    def __init__(self, model: Qwen2VL):
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[Qwen2VL], object]):
        return work(self.model)
