"""What a call does, as counts that do not depend on the machine's load: the profiler's view of one call.

The profiler sees the allocator and every operator, inside compiled operators too; memory that native code takes with
malloc and not through torch is not seen (`bench.memory` sees it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

# operators that wait for a value: on a GPU each stops the host
SYNCS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
# products, and where their left factor stands among the arguments
PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
# operators that only describe memory
VIEWS = ("aten.detach.", "aten.t.", "aten.view.", "aten._unsafe_view.", "aten.slice.", "aten.select.",
         "aten.expand.", "aten.transpose.", "aten.unsqueeze.", "aten.squeeze.", "aten.alias.", "aten.as_strided.")  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """One call.

    Attributes:
        dispatches: operators called from Python and autograd, views left out.
        allocations: tensors allocated, results included.
        peak_bytes: most bytes of tensors alive at a time, results included.
        products: matrix products of aten.
        product_flop: 2 x rows x depth x columns over them.
        syncs: operators that read a value back to the host.
    """

    dispatches: int
    allocations: int
    peak_bytes: int
    products: int
    product_flop: int
    syncs: int


def count(call: Callable[[], object]) -> Counts:
    """Counts of one call on the CPU, after a first one that is not counted."""
    call()
    with _Dispatches() as dispatches:
        call()
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True
    ) as profiler:
        result = call()
    del result
    events = profiler.profiler.kineto_results.events()
    memory = sorted(
        ((event.start_ns(), number, event.nbytes()) for number, event in enumerate(events)
         if event.name() == "[memory]")
    )  # fmt: skip
    products = [event for event in events if event.name() in PRODUCTS]
    alive = peak = 0
    for _, _, size in memory:
        alive += size
        peak = max(peak, alive)
    return Counts(
        dispatches=dispatches.number,
        allocations=sum(size > 0 for _, _, size in memory),
        peak_bytes=peak,
        products=len(products),
        product_flop=sum(_flop(event) for event in products),
        syncs=sum(event.name() in SYNCS for event in events),
    )


def graph_breaks(function: Callable, *args, **keywords) -> int:
    """How often torch.compile gives up on a call of the function."""
    torch._dynamo.reset()
    return torch._dynamo.explain(function)(*args, **keywords).graph_break_count


def _flop(event) -> int:
    """Of a product [..., m, k] x [..., k, n]."""
    first = PRODUCTS[event.name()]
    left, right = event.shapes()[first : first + 2]
    return 2 * math.prod(left) * right[-1]


class _Dispatches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += not str(function).startswith(VIEWS)
        return function(*args, **(kwargs or {}))
