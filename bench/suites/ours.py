"""Our side of every suite: which backend is asked for, and what it says it runs."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

import umer1_kernels as kernels
from bench.case import OURS, Variant


def backend_of(device: torch.device) -> str:
    """ "triton" on CUDA (and under its interpreter) where it is available, else "auto".

    By name, because "auto" takes the Triton kernels only once a GPU result of them is recorded.
    """
    wanted = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    if wanted and kernels.backend_status().get("triton") == "available":
        return "triton"
    return "auto"


def native(function: Callable[..., torch.Tensor | dict], name: str = "umer1-cuda") -> Variant:
    """A variant of ours by our own CUDA kernels, whatever "auto" takes."""
    state = kernels.backend_status()["cuda"]
    unavailable = "" if state == "available" else state
    return Variant(name, OURS, function, "our CUDA kernels", unavailable)


def describe(function, *args, **keywords) -> str:
    """Backend and plan of a call, in words."""
    choice = kernels.explain(function, *args, **keywords)
    return f"{choice.backend}: {choice.plan}"
