"""Where kernels run."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

# of every launch: results must not depend on what TRITON_DEFAULT_FP_FUSION says where they are made
PINNED = {"enable_fp_fusion": True}


def on_device(tensor: Tensor):
    """Context for launches: Triton uses the current device, whatever its arguments live on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
