"""Interleaved timing: every round runs each variant once, in turn, so that drift of the machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from bench.case import Gemms, Traffic

FEWEST_ROUNDS, MOST_ROUNDS = 3, 100
# larger products are timed on a block of rows and multiplied: the matrix itself would not fit
LARGEST_FLOOR_BYTES = {"cpu": 2**30, "cuda": 16 * 2**30}
L2_BYTES = 2**28


class Run(NamedTuple):
    """`call` once, by how much its time is multiplied, and whether it has run before."""

    call: Callable[[], object]
    times: float = 1.0
    warm: bool = False


class Spread(NamedTuple):
    """Milliseconds."""

    median: float
    p20: float
    p80: float


def interleave(
    runs: dict[str, Run], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of every run in every round.

    As many rounds as `seconds` allow, at most 100; at least 3, or 1 where one takes longer than that.
    """
    clock = _cuda_clock(device) if device.type == "cuda" else _cpu_clock
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for run in runs.values():
        if not run.warm:
            clock(run.call)
    began = time.monotonic()
    for number in range(MOST_ROUNDS):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(clock(runs[name].call) * runs[name].times)
        done, spent = number + 1, time.monotonic() - began
        fewest = FEWEST_ROUNDS if spent / done <= seconds else 1
        if done >= fewest and spent * (done + 1) / done > seconds:
            break
    return samples


def spread(samples: list[float]) -> Spread:
    return Spread(statistics.median(samples), *(_quantile(samples, share) for share in (0.2, 0.8)))


def paired_ratio(one: list[float], other: list[float]) -> float:
    """Median over rounds of one / other: steadier than a ratio of medians on a machine that drifts."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def floor_run(gemms: Gemms) -> Run:
    """The floor's products, gradients freshly allocated as everybody must, the logits' memory reused."""
    left, right, count = gemms.left, gemms.right, gemms.count
    row_bytes = len(right) * left.element_size()
    block = max(1, min(len(left), LARGEST_FLOOR_BYTES[left.device.type] // row_bytes))
    rows = left[:block]
    logits = left.new_empty(block, len(right))

    def call() -> None:
        torch.mm(rows, right.T, out=logits)
        if count == 1:
            return
        if count == 4:
            torch.mm(rows, right.T, out=logits)
        torch.mm(logits, right)
        torch.mm(logits.T, rows)

    return Run(call, len(left) / block)


def copy_run(traffic: Traffic) -> Run:
    """A copy of half as many bytes: they are read once and written once."""
    source = torch.zeros(max(1, traffic.bytes // 2), dtype=torch.uint8, device=traffic.device)
    target = torch.zeros_like(source)
    return Run(lambda: target.copy_(source))


def _cpu_clock(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    result = call()
    elapsed = (time.perf_counter() - began) * 1e3
    del result  # freeing is not timed
    return elapsed


def _cuda_clock(device: torch.device) -> Callable[[Callable[[], object]], float]:
    cache = torch.empty(L2_BYTES, dtype=torch.int8, device=device)

    def clock(call: Callable[[], object]) -> float:
        cache.zero_()  # nobody finds its inputs in L2
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        return start.elapsed_time(end)

    return clock


def _quantile(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
