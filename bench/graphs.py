"""A variant as a CUDA graph: what is left of a call when launching costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bench.case import Problem, Variant, step

REPEATS = 10  # calls in one graph: starting a graph takes longer than a small kernel


def in_graph(variant: Variant, leaves: tuple[str, ...] = ()) -> Variant:
    """The variant, captured at its first call and replayed from then on, on the same tensors.

    With `leaves` (of the case) the whole step is captured, their gradients included.
    """
    function = variant.function
    if leaves:
        function = lambda **inputs: step(variant.function, Problem(inputs, leaves))
    return replace(
        variant,
        name=f"{variant.name}-graph",
        function=_captured(function),
        note=f"{variant.note}, {REPEATS} calls in a CUDA graph".removeprefix(", "),
        calls=REPEATS,
    )


def _captured(function: Callable[..., Tensor | dict]) -> Callable[..., Tensor | dict]:
    graph, output = torch.cuda.CUDAGraph() if torch.cuda.is_available() else None, None

    def replay(**inputs) -> Tensor | dict:
        nonlocal output
        if output is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # whatever allocates or compiles once
                    function(**inputs)
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                for _ in range(REPEATS):
                    output = function(**inputs)
        graph.replay()
        return output

    return replay
