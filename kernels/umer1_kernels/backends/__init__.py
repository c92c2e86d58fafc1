"""Which backend runs a call, and why. A backend asked for by name runs or raises."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels.checks import check_choice
from umer1_kernels.extension import extension_status

BACKENDS = ("auto", "reference", "cpu")
CPU_DTYPES = (torch.float64, torch.float32, torch.bfloat16)

# function -> plan of each backend; a function without a "cpu" plan has no kernel there yet
PLANS = {
    "info_nce": {
        "reference": "all logits in memory, gradient by autograd",
        "cpu": "row chunks, one product per direction, compiled row pass, gradient in the forward",
    },
    "linear_cross_entropy": {
        "reference": "ignored rows dropped, row chunks recomputed in the backward"
    },
    "group_reward": {
        "reference": "one product per side, vectorised comparisons",
        "cpu": "one product per side, compiled row scores",
    },
    "gather_hidden": {
        "reference": "comparison of all rows with all sequences",
        "cpu": "compiled scan of each sequence, normalisation and its gradient",
    },
}
PLANS["dual_info_nce"] = PLANS["info_nce"]
PLANS["linear_logprob"] = PLANS["grpo_loss"] = PLANS["linear_cross_entropy"]


class Choice(NamedTuple):
    """What runs: function, backend, plan, and the reason in words."""

    function: str
    backend: str
    plan: str
    reason: str


def choose(function: str, backend: str, *tensors: Tensor) -> Choice:
    """The backend and plan for these inputs; ValueError if the one asked for cannot run."""
    check_choice("backend", backend, BACKENDS)
    obstacle = _cpu_obstacle(function, tensors)
    if backend == "cpu" and obstacle:
        raise ValueError(f'backend "cpu" cannot run {function}: {obstacle}')
    if backend == "auto":
        chosen = "reference" if obstacle else "cpu"
        reason = obstacle or "the compiled extension is loaded and takes these inputs"
    else:
        chosen, reason = backend, "asked for by name"
    return Choice(function, chosen, PLANS[function][chosen], reason)


def explain(function, *args, **keywords) -> Choice:
    """Which backend and plan `function(*args, **keywords)` would run, and why; nothing is computed.

    Args:
        function: one of this package's functions, or its name.

    Raises:
        ValueError: no such function, or the backend asked for cannot run it.
        TypeError: the arguments do not fit its signature.
    """
    import umer1_kernels

    name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
    check_choice("function", name, tuple(PLANS))
    bound = inspect.signature(getattr(umer1_kernels, name)).bind(*args, **keywords)
    first = list(bound.arguments.values())[:2]
    vectors = [
        part for value in first for part in (value if isinstance(value, tuple) else (value,))
    ]
    tensors = [part for part in vectors if isinstance(part, Tensor) and part.is_floating_point()]
    return choose(name, bound.arguments.get("backend", "auto"), *tensors)


def backend_status() -> dict[str, str]:
    """Every backend and "available", or the reason why it is not."""
    status = extension_status()
    return {"reference": "available", "cpu": "available" if status.loaded else status.detail}


def _cpu_obstacle(function: str, tensors: tuple[Tensor, ...]) -> str | None:
    if "cpu" not in PLANS[function]:
        return "it has no compiled CPU kernel yet"
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"the inputs are on {tensor.device}"
        if tensor.dtype not in CPU_DTYPES:
            return f"it takes float64, float32 and bfloat16, not {tensor.dtype}"
    status = extension_status()
    return None if status.loaded else f"the compiled extension is missing: {status.detail}"


if extension_status().loaded:
    # the operators get their shapes and gradients before anything calls or traces them
    from umer1_kernels.backends import cpu  # noqa: F401
