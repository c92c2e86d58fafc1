"""A variant as a CUDA graph: what is left of a call when launching costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bench.case import Variant

REPEATS = 10  # calls in one graph: starting a graph takes longer than a small kernel


def in_graph(variant: Variant) -> Variant:
    """The variant, captured at its first call and replayed from then on, on the same tensors."""
    return replace(
        variant,
        name=f"{variant.name}-graph",
        function=_captured(variant.function),
        note=f"{variant.note}, {REPEATS} calls in a CUDA graph".removeprefix(", "),
        calls=REPEATS,
    )


def _captured(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    graph, output = torch.cuda.CUDAGraph() if torch.cuda.is_available() else None, None

    def replay(**inputs) -> Tensor:
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
