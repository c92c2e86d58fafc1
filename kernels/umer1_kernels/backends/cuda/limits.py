"""Which functions have a native CUDA kernel, and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels.backends.cuda import dual_limits

MOST_ROLLOUTS = 32  # of one pair: kMostRollouts in csrc/common/group_reward_schedule.h


class Native(NamedTuple):
    """The dtypes of its tensors, and a check of the rest: what is beyond it, or None."""

    dtypes: tuple[torch.dtype, ...]
    beyond: Callable[[tuple[Tensor, ...], dict | None], str | None] = lambda tensors, rest: None


def _many_rollouts(tensors: tuple[Tensor, ...], rest: dict | None) -> str | None:
    for tensor in tensors:
        if tensor.dim() == 3 and tensor.shape[1] > MOST_ROLLOUTS:
            return f"it takes up to {MOST_ROLLOUTS} rollouts per pair, not {tensor.shape[1]}"
    return None


NATIVE = {
    "info_nce": Native((torch.bfloat16,), dual_limits.beyond),
    "dual_info_nce": Native((torch.bfloat16,), dual_limits.beyond),
    "group_reward": Native((torch.float32, torch.bfloat16, torch.float16), _many_rollouts),
    "gather_hidden": Native((torch.float64, torch.float32, torch.bfloat16, torch.float16)),
}


def obstacle(
    function: str, tensors: tuple[Tensor, ...], arguments: dict | None = None
) -> str | None:
    """Why the native kernel cannot take these inputs (and other arguments, if known), or None."""
    if function not in NATIVE:
        return f"it has no native kernel; {', '.join(NATIVE)} have"
    native = NATIVE[function]
    for tensor in tensors:
        if tensor.device.type != "cuda":
            return f"the inputs are on {tensor.device}"
        if tensor.dtype not in native.dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in native.dtypes)
            return f"it takes {names}, not {tensor.dtype}"
    return native.beyond(tensors, arguments)
