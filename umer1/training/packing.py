"""Which sequences share a forward pass: packs of at most so many tokens, without padding.

    packs = plan_packs(lengths, capacity=16384)              # fewest packs: best-fit decreasing
    parts = plan_microbatches(lengths, capacity=16384)       # the same number, evened out
    efficiency(lengths, packs, capacity=16384)               # share of the room that real tokens fill

A plan depends on its arguments alone: no seed, no clock, the same on every machine and with either
planner. The compiled one (umer1._packing) and the Python one (umer1.training.best_fit) give the same
packs; `planner()` says which is there. Lengths are tokens.
"""

from __future__ import annotations

import heapq
import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from umer1.training import best_fit

BACKENDS = ("auto", "compiled", "numpy")
HOW_TO_BUILD = (
    "UMER1_BUILD_PACKING=1 python setup.py build_ext --inplace (needs pybind11 and a C++ compiler)"
)
LARGEST = np.iinfo(np.int64).max


def plan_packs(
    lengths: Sequence[int] | np.ndarray, capacity: int, *, backend: str = "auto"
) -> list[list[int]]:
    """Packs of item numbers, at most `capacity` tokens each: best-fit decreasing, O(n log n).

    The longest item first, each into the pack it leaves least room in. A longer single item has a
    pack of its own. Every item is in exactly one pack; items of length 0 too. In a pack the longest
    item is first.

    Args:
        lengths: tokens of each item, whole numbers from 0. capacity: tokens a pack may hold, at least 1.
        backend: "compiled", "numpy", or "auto": the compiled one where it is built.

    Raises:
        ValueError: an argument is wrong, or backend="compiled" and it is not built.
    """
    lengths, capacity = _checked(lengths, capacity)
    items, ends = _planner(backend).best_fit_decreasing(lengths, capacity)
    flat, ends = items.tolist(), ends.tolist()
    return [flat[begin:end] for begin, end in zip([0, *ends], ends)]


def plan_microbatches(
    lengths: Sequence[int] | np.ndarray,
    capacity: int,
    *,
    parts: int | None = None,
    backend: str = "auto",
) -> list[list[int]]:
    """The items of one batch in microbatches of at most `capacity` tokens and about equal size.

    As many as `plan_packs` makes, or exactly `parts`: with several processes all must run the same
    number of forwards, so each asks for the largest number any of them needs.
    Parts are as even as longest-first placing makes them, where that keeps within `capacity`; else
    they are the packs, the fullest cut in two until there are enough. The largest part is first (a
    batch that does not fit in memory fails at once), numbers in a part ascend. With more parts than
    items the last ones are empty: their process still has to take part in the forward.

    Raises:
        ValueError: `parts` is less than the batch needs, or as for `plan_packs`.
    """
    lengths, capacity = _checked(lengths, capacity)
    packs = plan_packs(lengths, capacity, backend=backend)
    if parts is not None and parts < len(packs):
        raise ValueError(
            f"parts: got {parts}, but {len(packs)} are needed for {len(lengths)} items in "
            f"microbatches of {capacity} tokens"
        )
    tokens = lengths.tolist()
    size = lambda part: sum(tokens[item] for item in part)  # noqa: E731
    plan = _even(tokens, len(packs) if parts is None else parts)
    if any(size(part) > capacity and len(part) > 1 for part in plan):
        plan = _cut(packs, tokens, len(plan))
    return sorted((sorted(part) for part in plan), key=lambda part: (-size(part), not part, part))


def efficiency(
    lengths: Sequence[int] | np.ndarray, packs: Sequence[Sequence[int]], capacity: int
) -> float:
    """Real tokens / room of the packs, 0 to 1. A pack of one longer item counts as full; no packs, as 1."""
    lengths, capacity = _checked(lengths, capacity)
    if not len(packs):
        return 1.0
    members = np.fromiter((item for pack in packs for item in pack), np.int64)
    sizes = np.array([len(pack) for pack in packs])
    # float64: sums of int64 lengths may be larger than int64
    tokens = np.zeros(len(packs))
    np.add.at(tokens, np.repeat(np.arange(len(packs)), sizes), lengths[members].astype(np.float64))
    return float(tokens.sum() / np.maximum(tokens, capacity).sum())


class Planner(NamedTuple):
    """Which planner `backend="auto"` takes, and why or from where."""

    name: str
    detail: str


def planner() -> Planner:
    """The planner that is there: what `umer1 doctor` and the start of a training say."""
    module, obstacle = _compiled()
    if module is None:
        return Planner("numpy", f"{obstacle}; to build it: {HOW_TO_BUILD}")
    return Planner("compiled", module.__file__)


@cache
def _compiled():
    """(module, "") or (None, what is in the way)."""
    try:
        return importlib.import_module("umer1._packing"), ""
    except ImportError as error:
        return None, f"umer1._packing is not built for this Python ({error})"


def _planner(backend: str):
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, wants one of {', '.join(BACKENDS)}")
    module, obstacle = (None, "") if backend == "numpy" else _compiled()
    if backend == "compiled" and module is None:
        raise ValueError(f"backend='compiled': {obstacle}; to build it: {HOW_TO_BUILD}")
    return module or best_fit


def _checked(lengths, capacity) -> tuple[np.ndarray, int]:
    """int64 [n] and int, or an error that names the argument."""
    array = np.asarray(lengths)
    if array.ndim != 1:
        raise ValueError(f"lengths: wants one dimension, got shape {array.shape}")
    if len(array) and array.dtype.kind not in "iu":
        raise ValueError(f"lengths: wants whole numbers, got {array.dtype}")
    if len(array) and (int(array.min()) < 0 or int(array.max()) > LARGEST):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"lengths: wants 0 to {LARGEST} tokens, got {wrong}")
    whole = isinstance(capacity, (int, np.integer)) and not isinstance(capacity, bool)
    if not whole or not 1 <= capacity <= LARGEST:
        raise ValueError(f"capacity: wants a whole number of tokens from 1, got {capacity!r}")
    return array.astype(np.int64), int(capacity)


def _even(tokens: list[int], parts: int) -> list[list[int]]:
    """Longest item first, each into the part with the fewest tokens (of equal ones the first)."""
    plan: list[list[int]] = [[] for _ in range(parts)]
    lightest = [(0, part) for part in range(parts)]
    for item in sorted(range(len(tokens)), key=lambda item: -tokens[item]):
        held, part = lightest[0]
        plan[part].append(item)
        heapq.heapreplace(lightest, (held + tokens[item], part))
    return plan


def _cut(packs: list[list[int]], tokens: list[int], parts: int) -> list[list[int]]:
    """The packs, the fullest one that has several items cut in two halves until there are `parts`."""
    size: Callable[[list[int]], int] = lambda pack: sum(tokens[item] for item in pack)
    plan = list(packs)
    while len(plan) < parts:
        several = [number for number, pack in enumerate(plan) if len(pack) > 1]
        if not several:
            return plan + [[] for _ in range(parts - len(plan))]
        fullest = max(several, key=lambda number: (size(plan[number]), -number))
        pack = plan.pop(fullest)
        halves = _even([tokens[item] for item in pack], 2)
        plan += [[pack[index] for index in half] for half in halves]
    return plan
