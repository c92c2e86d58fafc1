"""A workload: the real thing, ready to run again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from umer1.profiling.request import Request


@dataclass(slots=True)
class Workload:
    """One call of `run` is what is profiled; every call does the same work.

    Attributes:
        dtype: of the matrix products.
        about: what runs, in words.
        begins: the stage with whose first entry a call begins to count; "": at once.
        bytes_of_lists: element size of the tensors that operators take in lists, which a trace does not name.
    """

    run: Callable[[], object]
    dtype: torch.dtype
    about: list[str] = field(default_factory=list)
    begins: str = ""
    bytes_of_lists: int = 4


def build(request: Request) -> Workload:
    """Inputs, model and all.

    Raises:
        ValueError: something asked for is not there; the message names it.
    """
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here")
    if request.target == "loss":
        from umer1.profiling.losses import build_loss

        return build_loss(request)
    if request.target in ("prefill", "decode"):
        from umer1.profiling.generation import build_generation

        return build_generation(request)
    from umer1.profiling.training_steps import build_rl_step, build_sft_step

    return {"sft-step": build_sft_step, "rl-step": build_rl_step}[request.target](request)
