"""Where kernels run."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def on_device(tensor: Tensor):
    """Context for launches: Triton uses the current device, whatever its arguments live on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
