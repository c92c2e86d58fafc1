"""What this machine can do, measured in the same run: products per second, and bytes through memory per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}  # far more than a cache holds
TRIES = 5
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}  # fmt: skip


class Roofs(NamedTuple):
    """Bytes per second (read and written together), FLOPs per second by dtype, and how they were measured."""

    bandwidth: float
    flop_rate: dict[str, float]
    how: str

    def floor(self, flop: float, nbytes: float, dtype: str) -> tuple[float, str]:
        """The seconds this work takes at best, and what bounds it: "memory" or "compute"."""
        memory = nbytes / self.bandwidth
        compute = flop / self.flop_rate[dtype] if dtype in self.flop_rate else 0.0
        return (compute, "compute") if compute > memory else (memory, "memory")


def measure(device: torch.device, dtypes: set[str]) -> Roofs:
    """The best of five square products in each dtype and of five copies."""
    size, nbytes = PRODUCT_SIZE[device.type], COPY_BYTES[device.type]
    rates = {}
    for name in sorted(dtypes & DTYPES.keys()):
        left, right = (torch.randn(size, size, device=device).to(DTYPES[name]) for _ in range(2))
        out = torch.empty_like(left)
        rates[name] = 2 * size**3 / _best(device, lambda: torch.mm(left, right, out=out))  # noqa: B023
    source = torch.ones(nbytes, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * nbytes / _best(device, lambda: target.copy_(source))
    how = f"aten::mm of {size} x {size} x {size}; a copy of {nbytes >> 20} MiB, bytes read and written"
    return Roofs(bandwidth, rates, how)


def _best(device: torch.device, call: Callable[[], object]) -> float:
    """Seconds of the fastest of five calls after one that is not counted."""
    call()
    return min((_on_cuda if device.type == "cuda" else _on_cpu)(call) for _ in range(TRIES))


def _on_cpu(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _on_cuda(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
