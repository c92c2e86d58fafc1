"""Our side of every suite: which backend is asked for, and what it says it runs."""

from __future__ import annotations

import torch

import umer1_kernels as kernels


def backend_of(device: torch.device) -> str:
    """ "triton" on CUDA where it is available (not the default there before it is measured), else "auto"."""
    if device.type == "cuda" and kernels.backend_status().get("triton") == "available":
        return "triton"
    return "auto"


def describe(function, *args, **keywords) -> str:
    """Backend and plan of a call, in words."""
    choice = kernels.explain(function, *args, **keywords)
    return f"{choice.backend}: {choice.plan}"
