"""Named ranges: what the profiler, its Chrome trace and NVTX tools show as the stages of a workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.profiler import record_function

from umer1.engine.decode import PagedAttention
from umer1.engine.prefill import FirstPiecesAttention, LaterPieceAttention
from umer1.model.qwen2_vl import Qwen2VL

PREFIX = "stage: "
CALL = "call"


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A range in the trace of torch.profiler, and in NVTX where there is a GPU."""
    with ExitStack() as ranges:
        ranges.enter_context(record_function(PREFIX + name))
        if torch.cuda.is_available():
            torch.cuda.nvtx.range_push(name)
            ranges.callback(torch.cuda.nvtx.range_pop)
        yield


@contextmanager
def model_stages(model: Qwen2VL, decoder: str = "decoder") -> Iterator[None]:
    """While it holds, the model's vision tower and decoder are stages of their own.

    The decoder's is called "prefill" or "decode" where its attention says so, else `decoder`.
    """

    def decoder_stage(arguments: tuple) -> str:
        attend = arguments[2]
        if isinstance(attend, PagedAttention):
            return "decode"
        prefill = isinstance(attend, (FirstPiecesAttention, LaterPieceAttention))
        return "prefill" if prefill else decoder

    hooks = [
        *_stage_of(model.vision, lambda _: "vision"),
        *_stage_of(model.decoder, decoder_stage),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stage_of(module: nn.Module, name: Callable[[tuple], str]) -> list:
    """Hooks that open a stage when the module is called and close it when it returns or raises."""
    opened: list[ExitStack] = []

    def enter(_, arguments: tuple) -> None:
        opened.append(ExitStack())
        opened[-1].enter_context(stage(name(arguments)))

    def leave(*_) -> None:
        opened.pop().close()

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]
