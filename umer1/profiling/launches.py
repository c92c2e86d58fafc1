"""The launches of umer1_kernels' Triton kernels while they are traced: their arguments, from which their costs follow.

A trace names a kernel and its time but not its arguments; Triton tells them to hooks that run before a launch. Launches
and kernel events of one name come in the same order.
"""

from __future__ import annotations

import importlib
from collections import defaultdict

import torch
from torch import Tensor

from umer1.profiling.costs import Argument, Cost
from umer1.profiling.kernel_costs import KERNELS, kernel_cost

MODULES = ("column_pools", "compaction", "gradient", "hidden_gather_kernels", "product_kernel", "reward_kernel", "row_pools")  # fmt: skip


class Launches:
    """Context: while it is entered, launches are noted; without Triton or a GPU there are none."""

    def __init__(self, device: torch.device):
        self.kernels = _kernels() if device.type == "cuda" else {}
        self._arguments: dict[str, list[dict[str, object]]] = defaultdict(list)
        self._hooks: dict[str, object] = {}

    @property
    def names(self) -> set[str]:
        """Of the kernels that were launched."""
        return set(self._arguments)

    def __enter__(self) -> Launches:
        for name, kernel in self.kernels.items():
            self._hooks[name] = self._hook(name, kernel.arg_names)
            kernel.pre_run_hooks.append(self._hooks[name])
        return self

    def __exit__(self, *_) -> None:
        for name, kernel in self.kernels.items():
            kernel.pre_run_hooks.remove(self._hooks[name])

    def costs(self, names: list[str]) -> list[Cost | None]:
        """For each kernel event, in order of time, the cost of its launch."""
        totals = {name: names.count(name) for name in self._arguments}
        waiting = {
            name: iter(launches)
            for name, launches in self._arguments.items()
            if len(launches) == totals[name]
        }
        return [
            kernel_cost(name, _read(next(waiting[name]))) if name in waiting else None
            for name in names
        ]

    def _hook(self, name: str, parameters: list[str]):
        def note(*arguments, **keywords) -> None:
            values = dict(zip(parameters, arguments)) | keywords
            self._arguments[name].append(
                {key: _described(key, value) for key, value in values.items()}
            )

        return note


def _kernels() -> dict[str, object]:
    try:
        import triton  # noqa: F401
    except ImportError:
        return {}
    found = {}
    for module in MODULES:
        content = importlib.import_module(f"umer1_kernels.backends.triton.{module}")
        found |= {name: getattr(content, name) for name in KERNELS if hasattr(content, name)}
    return found


def _described(name: str, value: object) -> object:
    """Tensors by shape and dtype, so that none is kept alive; only the device's count of rows is."""
    value = (
        getattr(value, "base", value) if not isinstance(value, Tensor) else value
    )  # a descriptor
    if not isinstance(value, Tensor) or name == "live":
        return value
    return Argument(tuple(value.shape), value.element_size(), str(value.dtype).removeprefix("torch."))  # fmt: skip


def _read(values: dict[str, object]) -> dict[str, object]:
    """With the device's count as a number; the trace is over, nobody is kept waiting."""
    live = values.get("live")
    return values | {"live": int(live) if isinstance(live, Tensor) else live}
