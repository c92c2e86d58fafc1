"""What is measured: a case (one function at one shape), its inputs, and the variants that compute the same thing.

A step is one call and, where the case has leaves, its gradients: what a training loop pays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

OURS = "umer1"
# relative Frobenius error allowed before anything is timed: the contract for ours, sanity for peers
TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 4e-3, torch.float32: 1e-4, torch.float64: 1e-9}
PEER_TOLERANCE = 0.5


@dataclass(slots=True)
class Problem:
    """The inputs of a case.

    Attributes:
        inputs: what every variant is called with, by keyword.
        leaves: names of the inputs that get a gradient; none: the call runs without autograd.
        upstream: gradient of the output; None: the output is a scalar loss.
    """

    inputs: dict[str, Any]
    leaves: tuple[str, ...] = ()
    upstream: Tensor | None = None


@dataclass(frozen=True)
class Variant:
    """One way to compute a case.

    `family` is what `--peers` chooses by ("umer1": always); `unavailable` says in words why it cannot
    run here; `calls` is how many calls one call makes, which its time is divided by. Of the variants of one
    `sweep` (one peer at several settings) only the fastest in its first run is timed further.
    """

    name: str
    family: str
    function: Callable[..., Tensor]
    note: str = ""
    unavailable: str = ""
    calls: int = 1
    checked: bool = True  # False: it gives no result to compare, a part of what others do
    sweep: str = ""


class Expected(NamedTuple):
    """float64 values of an output or gradient at `index` (a sample of its rows; None: all)."""

    index: Any
    values: Tensor


@dataclass(frozen=True)
class Gemms:
    """The floor: `count` products of [rows, depth] x [depth, columns] and its two transposes.

    1 is a forward; 3 are logits and two gradients; 4 have the logits made twice.
    """

    left: Tensor  # [rows, depth]
    right: Tensor  # [columns, depth]
    count: int

    def describe(self) -> str:
        rows, depth = self.left.shape
        dtype = str(self.left.dtype).removeprefix("torch.")
        return f"{self.count} aten::mm of {rows} x {depth} x {self.right.shape[0]}, {dtype}"


@dataclass(frozen=True)
class Traffic:
    """The floor of what only reads: `bytes` at the speed at which tensors are copied (bytes read and written)."""

    bytes: int
    device: torch.device

    def describe(self) -> str:
        return f"{self.bytes / 2**20:.1f} MiB read at the speed of a copy"


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """One function at one shape. `peers`: names of the variants beside ours, None for all."""

    suite: ClassVar[str]
    baseline: ClassVar[str | None] = None  # the variant whose memory is the unit
    timed: ClassVar[bool] = True
    weighed: ClassVar[bool] = True  # peak memory is measured, in processes of their own
    counted: ClassVar[bool] = (
        True  # the guard counts its operators and launches, not its time alone
    )

    compilable: ClassVar[bool] = (
        True  # and its graph breaks under torch.compile, and Triton's launches
    )

    name: str
    dtype: torch.dtype
    peers: tuple[str, ...] | None = field(default=None)

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.dtype]

    @property
    def peer_tolerance(self) -> float:
        return PEER_TOLERANCE

    @abstractmethod
    def sizes(self) -> dict[str, int | float | str]:
        """The shape, as it stands in the result row."""

    @abstractmethod
    def small(self) -> Case:
        """The same case at a size that costs nothing: launches are counted on it, in an interpreter."""

    @abstractmethod
    def build(self, device: torch.device) -> Problem:
        """Inputs, the same on every call."""

    @abstractmethod
    def variants(self, device: torch.device) -> list[Variant]:
        """Ours first."""

    @abstractmethod
    def truth(self, problem: Problem) -> dict[str, Expected]:
        """float64 values for "output" and for every leaf, on a sample of rows where that is cheaper."""

    def gemms(self, problem: Problem) -> Gemms | None:
        """The products no plan can avoid; None where a product is not the cost."""
        return None

    def traffic(self, problem: Problem) -> Traffic | None:
        """What has to be read at least; None where a product is the cost."""
        return None

    def flop(self, problem: Problem) -> float | None:
        """The arithmetic a step needs, where the share of the hardware's peak is what counts."""
        return None

    @abstractmethod
    def explain(self, problem: Problem) -> str:
        """Which backend and plan of ours run; called with gradients on only if the case has leaves."""

    def plan(self, problem: Problem) -> str:
        """`explain` as the step runs it."""
        with torch.set_grad_enabled(bool(problem.leaves)):
            return self.explain(problem)

    def chosen(self, device: torch.device, families: list[str] | None) -> list[Variant]:
        """Ours and the peers that this case and `--peers` (None: all) let run."""
        return [
            variant
            for variant in self.variants(device)
            if variant.family == OURS
            or (families is None or variant.family in families)
            and (self.peers is None or variant.name in self.peers)
        ]


def step(function: Callable[..., Tensor | dict], problem: Problem) -> dict[str, Tensor]:
    """Call a variant; {"output": its value, leaf: gradient, ...}, which one that needs no autograd returns itself."""
    if not problem.leaves:
        with torch.no_grad():
            return {"output": function(**problem.inputs)}
    output = function(**problem.inputs)
    if isinstance(output, dict):
        return output
    leaves = [problem.inputs[name] for name in problem.leaves]
    gradients = torch.autograd.grad(output, leaves, problem.upstream)
    return {"output": output.detach(), **dict(zip(problem.leaves, gradients, strict=True))}


def errors(result: dict[str, Tensor], expected: dict[str, Expected]) -> dict[str, float]:
    """Relative Frobenius error of each output and gradient of a step."""
    found = {}
    for name, (index, values) in expected.items():
        got = result[name] if index is None else result[name][index]
        difference = got.double() - values
        scale = values.norm()
        found[name] = float(difference.norm() / scale if scale > 0 else difference.norm())
    return found
