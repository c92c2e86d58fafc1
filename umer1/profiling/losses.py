"""The losses of umer1_kernels as workloads: a call, and its gradients where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from umer1.profiling.ranges import stage
from umer1.profiling.request import Request
from umer1.profiling.workload import Workload

TOKEN = 1  # what gather_hidden looks for
CHANCE = 0  # seed of all inputs


class Call(NamedTuple):
    """`function(*arguments, **options)`; `value` picks what is differentiated, `leaves` by what."""

    function: Callable
    arguments: tuple
    options: dict
    value: Callable[[object], Tensor] = lambda result: result
    leaves: tuple[Tensor, ...] = ()


def build_loss(request: Request) -> Workload:
    """A forward and, where the function has gradients, a backward."""
    dtype = getattr(torch, request.dtype)
    torch.manual_seed(CHANCE)
    make = _Inputs(request.sizes, dtype, torch.device(request.device))
    call = getattr(make, request.loss)()
    options = {**call.options, "backend": request.backend}
    with torch.set_grad_enabled(bool(call.leaves)):
        choice = kernels.explain(call.function, *call.arguments, **options)
    upstream = None

    def run() -> None:
        nonlocal upstream
        with stage("forward"):
            value = call.value(call.function(*call.arguments, **options))
        if not call.leaves:
            return
        if upstream is None:  # not the ones of a sum, which are one number seen many times
            upstream = torch.randn_like(value) if value.dim() else torch.ones_like(value)
        with stage("backward"):
            torch.autograd.grad(value, call.leaves, upstream)

    about = [f"backend {choice.backend} ({choice.reason})", f"plan {choice.plan}"]
    return Workload(run, dtype, about, bytes_of_lists=dtype.itemsize)


class _Inputs:
    """Random inputs of each loss; unit vectors and a head of small weights, so that softmaxes are not flat."""

    def __init__(self, sizes: dict[str, int], dtype: torch.dtype, device: torch.device):
        self.sizes, self.dtype, self.device = sizes, dtype, device

    def info_nce(self) -> Call:
        query, target = self._leaf(self._pairs()), self._leaf(self._pairs())
        return Call(kernels.info_nce, (query, target), self._directions(), leaves=(query, target))

    def dual_info_nce(self) -> Call:
        sides = [self._leaf(self._pairs()) for _ in range(4)]
        options = {**self._directions(), "align": float(self.sizes["align"])}
        return Call(
            kernels.dual_info_nce,
            (tuple(sides[:2]), tuple(sides[2:])),
            options,
            lambda result: result.loss,
            tuple(sides),
        )

    def linear_cross_entropy(self) -> Call:
        hidden, weight, ids, mask = self._head()
        target = torch.where(mask, ids, -100)
        return Call(
            kernels.linear_cross_entropy, (hidden, weight, target), {}, leaves=(hidden, weight)
        )

    def linear_logprob(self) -> Call:
        hidden, weight, ids, mask = self._head()
        return Call(
            kernels.linear_logprob, (hidden, weight, ids), {"mask": mask}, leaves=(hidden, weight)
        )

    def grpo_loss(self) -> Call:
        hidden, weight, ids, mask = self._head()
        advantage, noise = self._normal(len(ids)), self._normal(len(ids))
        level = -torch.log(torch.tensor(float(len(weight))))
        policies = {"old_logprob": level + 0.1 * noise, "ref_logprob": level - 0.1 * noise}
        return Call(
            kernels.grpo_loss,
            (hidden, weight, ids, advantage),
            {"mask": mask, **policies},
            lambda result: result.loss,
            (hidden, weight),
        )

    def group_reward(self) -> Call:
        shape = tuple(self.sizes[name] for name in "NGD")
        sides = tuple(F.normalize(self._normal(*shape), dim=-1).to(self.dtype) for _ in range(2))
        return Call(kernels.group_reward, sides, {})

    def gather_hidden(self) -> Call:
        count, length, size = (self.sizes[name] for name in "BLH")
        ids = torch.randint(TOKEN + 1, 1000, (count, length), device=self.device)
        ids[:, length // 2] = TOKEN
        hidden = self._leaf(self._normal(count, length, size))
        return Call(
            kernels.gather_hidden, (hidden, ids, TOKEN), {}, lambda result: result.vectors, (hidden,)
        )  # fmt: skip

    def _directions(self) -> dict:
        return {"directions": ("q2t", "t2q")[: self.sizes["directions"]]}

    def _pairs(self) -> Tensor:
        return F.normalize(self._normal(self.sizes["N"], self.sizes["D"]), dim=-1)

    def _head(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """hidden [T, H], weight [V, H], ids [T], and a mask of which the first part counts."""
        tokens, width, vocabulary = (self.sizes[name] for name in "THV")
        hidden = self._leaf(self._normal(tokens, width))
        weight = self._leaf(0.02 * self._normal(vocabulary, width))
        ids = torch.randint(vocabulary, (tokens,), device=self.device)
        live = max(1, tokens * self.sizes["live"] // 100)
        return hidden, weight, ids, torch.arange(tokens, device=self.device) < live

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device)

    def _leaf(self, values: Tensor) -> Tensor:
        return values.to(self.dtype).requires_grad_()
