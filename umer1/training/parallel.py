"""Weights inside the wrapped forward."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1.model.qwen2_vl import Qwen2VL


def use_head(model: Qwen2VL) -> Tensor:
    """The output projection [V, H], in autocast's dtype where that is on; only inside the wrapped forward."""
    weight = model.head_weight
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):
        return weight.to(torch.get_autocast_dtype(kind))
    return weight
