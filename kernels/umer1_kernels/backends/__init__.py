"""Which backend runs a call, and why. A backend asked for by name runs or raises."""

from __future__ import annotations

import importlib.util
import inspect
import os
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import plans
from umer1_kernels.backends.cuda import limits
from umer1_kernels.checks import check_choice
from umer1_kernels.extension import cuda_kernels_missing, extension_status

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
CPU_DTYPES = (torch.float64, torch.float32, torch.bfloat16)
CONTRASTIVE = ("info_nce", "dual_info_nce")
LINEAR = ("linear_cross_entropy", "linear_logprob", "grpo_loss")
DECODING = ("decode_attention", "append_kv", "sample_tokens")  # in 16 and 32 bits only
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
TRITON_INTERPRETED = (
    os.environ.get("TRITON_INTERPRET") == "1"
)  # then its kernels run on CPU tensors
# (backend, function) with a GPU result in bench/results: "auto" takes them there, "cuda" first; after `make gpu`,
# `python -m bench.recorded` says which
RECORDED_ON_GPU: frozenset[tuple[str, str]] = frozenset()

# what a function does, by backend; the compiled losses' plans depend on shapes and are in plans.py
HOW = {
    **dict.fromkeys(CONTRASTIVE, {"reference": "all logits in memory, gradient by autograd"}),
    **dict.fromkeys(
        LINEAR, {"reference": "ignored rows dropped, row chunks recomputed in the backward"}
    ),
    "group_reward": {
        "reference": "one product per side, vectorised comparisons",
        "cpu": "one product per side, one compiled operator for the rest",
        "triton": "one product per side, one kernel for its scores",
        "cuda": "products, scores and advantages of both sides in one launch",
    },
    "gather_hidden": {
        "reference": "comparison of all rows with all sequences",
        "cpu": "compiled scan of each sequence, normalisation and its gradient",
        "triton": "one kernel forward, one backward",
        "cuda": "one kernel forward, one backward",
    },
    "decode_attention": {
        "reference": "each row's pages gathered, one softmax",
        "cpu": "compiled parts of fixed ranges of keys, those of a prefix read once for its rows",
        "triton": "split-KV: a kernel for prefixes, one for suffixes, one that merges their parts",
    },
    "append_kv": {
        "reference": "an indexed write",
        "cpu": "compiled copies",
        "triton": "one kernel",
    },
    "sample_tokens": {
        "reference": "cumulative sums over all tokens, a sort for top-p and top-k",
        "cpu": "compiled passes over blocks of logits, a heap for top-p and top-k",
        "triton": "pools of blocks of logits, one search among them; two kernels more for top-p and top-k",
    },
}


class Choice(NamedTuple):
    """What runs: function, backend, plan, and the reason in words."""

    function: str
    backend: str
    plan: str
    reason: str


def choose(function: str, backend: str, *tensors: Tensor, arguments: dict | None = None) -> Choice:
    """The backend for these inputs; ValueError if the one asked for cannot run.

    `arguments`: the function's other ones, where a backend may not take them all.
    """
    check_choice("backend", backend, BACKENDS)
    if backend != "auto":
        obstacle = _obstacle(backend, function, tensors, arguments)
        if obstacle:
            raise ValueError(f"backend {backend!r} cannot run {function}: {obstacle}")
        return Choice(function, backend, _how(function, backend), "asked for by name")
    reason = _cpu_obstacle(function, tensors)
    if reason is None:
        reason = "the compiled extension is loaded and takes these inputs"
        return Choice(function, "cpu", _how(function, "cpu"), reason)
    able = [
        name for name in ("cuda", "triton") if _obstacle(name, function, tensors, arguments) is None
    ]
    for name in able:
        if (name, function) in RECORDED_ON_GPU:
            reason = "CUDA inputs, and its kernels have a recorded GPU result"
            return Choice(function, name, _how(function, name), reason)
    if able:
        names = " or ".join(f'backend="{name}"' for name in able)
        reason = f"its GPU kernels have no recorded result yet; ask with {names}"
    return Choice(function, "reference", _how(function, "reference"), reason)


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
    gradients = name.endswith("_value_and_grad")
    name = name.removesuffix("_value_and_grad")
    check_choice("function", name, tuple(HOW))
    bound = inspect.signature(getattr(umer1_kernels, name)).bind(*args, **keywords)
    bound.apply_defaults()
    first = list(bound.arguments.values())[:2]
    vectors = [
        part for value in first for part in (value if isinstance(value, tuple) else (value,))
    ]
    tensors = [part for part in vectors if isinstance(part, Tensor) and part.is_floating_point()]
    choice = choose(name, bound.arguments["backend"], *tensors, arguments=bound.arguments)
    if choice.backend == "reference" or name not in CONTRASTIVE + LINEAR:
        return choice
    find = plans.small if choice.backend == "cuda" else plans.of
    plan = find(name, bound.arguments, gradients)
    return choice._replace(plan=f"{plan.name}: {plan.products:g} products, keeps {plan.keeps}")


def backend_status() -> dict[str, str]:
    """Every backend and "available", or the reason why it is not."""
    status = extension_status()
    return {
        "reference": "available",
        "cpu": "available" if status.loaded else status.detail,
        "triton": _triton_missing() or "available",
        "cuda": _cuda_missing() or "available",
    }


def _how(function: str, backend: str) -> str:
    return HOW[function].get(backend, "by shape: see explain()")


def _obstacle(
    backend: str, function: str, tensors: tuple[Tensor, ...], arguments: dict | None
) -> str | None:
    """Why this backend cannot run the function with these inputs, or None."""
    if backend == "cpu":
        return _cpu_obstacle(function, tensors)
    if backend == "triton":
        return _triton_obstacle(function, tensors)
    if backend == "cuda":
        return limits.obstacle(function, tensors, arguments) or cuda_kernels_missing()
    return None


def _cpu_obstacle(function: str, tensors: tuple[Tensor, ...]) -> str | None:
    dtypes = CPU_DTYPES[1:] if function in DECODING else CPU_DTYPES
    for tensor in tensors:
        # tensors without data only get their shapes
        if tensor.device.type not in ("cpu", "meta"):
            return f"the inputs are on {tensor.device}"
        if tensor.dtype not in dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            return f"it takes {names}, not {tensor.dtype}"
    status = extension_status()
    return None if status.loaded else f"the compiled extension is missing: {status.detail}"


def _triton_obstacle(function: str, tensors: tuple[Tensor, ...]) -> str | None:
    if not TRITON_INSTALLED:
        return "triton is not installed"
    for tensor in tensors:
        if function in DECODING and tensor.dtype == torch.float64:
            return "it takes 16 and 32 bits, not torch.float64"
        if tensor.device.type != "cuda" and not (
            TRITON_INTERPRETED and tensor.device.type == "cpu"
        ):
            return f"the inputs are on {tensor.device}"
    return None


def _triton_missing() -> str | None:
    if TRITON_INSTALLED and not TRITON_INTERPRETED and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return _triton_obstacle("", ())


def _cuda_missing() -> str | None:
    missing = cuda_kernels_missing()
    if missing is None and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return missing


if extension_status().loaded:
    # the operators get their shapes and gradients before anything calls or traces them
    from umer1_kernels.backends import cpu  # noqa: F401
    from umer1_kernels.backends.cuda import dual_info_nce, operators  # noqa: F401
