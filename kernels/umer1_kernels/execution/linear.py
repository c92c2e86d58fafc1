"""How the losses of a linear head run: plans.py's plans over any backend's primitives.

Legend: T tokens, R of them that count, H hidden size, V vocabulary. A token's logits are
<hidden_t, weight_v> / temperature; its own entry is that of the token to be predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import checks, plans
from umer1_kernels.execution.protocol import Block, Pools, Primitives
from umer1_kernels.execution.terms import own_logits


class Live(NamedTuple):
    """Which tokens count, compacted. On a GPU the host knows no count: R = T, `count` is there."""

    mask: Tensor  # bool [T]
    index: Tensor  # int64 [R]
    count: Tensor | None

    def gather(self, values: Tensor) -> Tensor:
        """[T, ...] -> [R, ...]."""
        return values[self.index]

    def spread(self, values: Tensor) -> Tensor:
        """[R, ...] -> [T, ...], 0 elsewhere; a gather, since a scatter would need distinct rows."""
        if values.shape[0] == 0:
            return values.new_zeros(self.mask.shape[0], *values.shape[1:])
        place = (self.mask.cumsum(0) - 1).clamp_min(0)
        mask = self.mask.view(-1, *(1,) * (values.dim() - 1))
        return torch.where(mask, values[place], 0.0)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """[R]: 1 for tokens that count, 0 for the padding behind them."""
        if self.count is None:
            return torch.ones(self.index.shape[0], dtype=dtype, device=self.index.device)
        return (torch.arange(self.index.shape[0], device=self.index.device) < self.count).to(dtype)


class Needs(NamedTuple):
    """Which gradients are wanted: a frozen head needs no product of its own."""

    hidden: bool
    weight: bool


class Values(NamedTuple):
    """Of the tokens that count, [R]: log-probability, entropy (or None), and their pools."""

    logprob: Tensor
    entropy: Tensor | None
    pools: Pools


@dataclass(slots=True)
class Head:
    """hidden [R, H] of the tokens that count against weight [V, H]; label int64 [R]."""

    hidden: Tensor
    weight: Tensor
    label: Tensor
    scale: Tensor  # 1 / temperature
    live: Tensor | None

    def block(self) -> Block:
        return Block(self.hidden, self.weight, self.scale, self.label, live=self.live)

    def plan(self) -> plans.Plan:
        device = "cuda" if self.hidden.is_cuda else "cpu"
        size = self.hidden.element_size()
        return plans.one_way(self.hidden.shape[0], *self.weight.shape, size, device)


def compact(primitives: Primitives, mask: Tensor) -> Live:
    index, count, _ = primitives.compact(mask)
    return Live(mask, index, count)


def head(
    live: Live, hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float, name: str = "ids"
) -> Head:
    """Different dtypes meet in float32 (float64)."""
    dtype = checks.compute_dtype(hidden, weight)
    # a fill, not a copy from the host: a CUDA graph may capture it
    scale = torch.full((), 1.0 / temperature, dtype=dtype, device=hidden.device)
    if hidden.dtype != weight.dtype:
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    # the padding behind the tokens that count repeats the first token, whatever its id
    label = torch.where(live.weight(dtype) != 0, live.gather(ids).long(), 0)
    checks.check_range(name, label, 0, weight.shape[0])
    return Head(live.gather(hidden), weight, label, scale, live.count)


def values(primitives: Primitives, problem: Head, *, entropy: bool) -> Values:
    """One product, forward only."""
    pools = primitives.pools(problem.block(), moment=entropy)[0]
    own = own_logits(problem.hidden, problem.weight, problem.label)
    return _values(pools, own, problem.scale)


def values_and_gradients(
    primitives: Primitives,
    problem: Head,
    coefficient: Callable[[slice, Tensor], Tensor],
    *,
    entropy: bool,
    needs: Needs,
) -> tuple[Values, Tensor | None, Tensor | None]:
    """Three products. `coefficient(rows, their logprob)` is d loss / d logprob of those rows.

    Returns the values, the gradient of hidden [R, H] and of weight [V, H], where they are needed.
    """
    if not any(needs):
        return values(primitives, problem, entropy=entropy), None, None
    hidden, weight = problem.hidden, problem.weight
    block = problem.block()
    own = own_logits(hidden, weight, problem.label)
    whole = problem.plan() is plans.WHOLE
    if whole:
        kept = primitives.keep(block, moment=entropy)
        found = _values(kept.rows, own, problem.scale)
        upstream = coefficient(slice(0, hidden.shape[0]), found.logprob)
        logit_grad = kept.gradient(*_coefficients(found, upstream, problem.scale))
        hidden_grad = weight_grad = None
        if needs.hidden:
            hidden_grad = primitives.multiply(logit_grad, weight, live=problem.live)
        if needs.weight:
            weight_grad = primitives.transpose_multiply(logit_grad, hidden, live=problem.live)
        return found, hidden_grad, weight_grad
    sums = _Sums(primitives, problem, needs)
    parts = []
    for rows in chunks(problem):
        part = block.chunk(rows.start, rows.stop)
        kept = primitives.keep(part, moment=entropy)
        found = _values(kept.rows, own[rows], problem.scale)
        upstream = coefficient(rows, found.logprob)
        logit_grad = kept.gradient(*_coefficients(found, upstream, problem.scale))
        sums.add(rows, part, logit_grad)
        parts.append(found)
    return _joined(parts), *sums.gradients()


def gradients(
    primitives: Primitives,
    problem: Head,
    pools: Pools,
    logprob_grad: Tensor,
    entropy_grad: Tensor | None,
    needs: Needs,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of hidden and weight for upstream gradients [R] known only now; three products."""
    block = problem.block()
    own = own_logits(problem.hidden, problem.weight, problem.label)
    found = _values(pools, own, problem.scale)
    row, label = _coefficients(found, logprob_grad, problem.scale)
    slope = None
    if entropy_grad is not None:
        more_row, more_label, slope = _entropy_coefficients(found, own, entropy_grad, problem.scale)
        row, label = row + more_row, label + more_label
    sums = _Sums(primitives, problem, needs)
    for rows in chunks(problem):
        part = block.chunk(rows.start, rows.stop)
        logit_grad = primitives.gradient(
            part,
            Pools(pools.best[rows], pools.total[rows]),
            row[rows],
            label[rows],
            slope=None if slope is None else slope[rows],
        )
        sums.add(rows, part, logit_grad)
    return sums.gradients()


class _Sums:
    """Gradients of hidden and weight under way, chunk by chunk."""

    def __init__(self, primitives: Primitives, problem: Head, needs: Needs):
        self.primitives, self.problem = primitives, problem
        self.hidden = torch.empty_like(problem.hidden) if needs.hidden else None
        dtype = checks.compute_dtype(problem.weight)
        self.weight = torch.zeros_like(problem.weight, dtype=dtype) if needs.weight else None

    def add(self, rows: slice, part: Block, logit_grad: Tensor) -> None:
        primitives, live = self.primitives, part.live
        if self.hidden is not None:
            primitives.multiply(logit_grad, part.candidates, live=live, out=self.hidden[rows])
        if self.weight is not None:
            primitives.accumulate(self.weight, logit_grad, part.rows, live=live)

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        weight = None if self.weight is None else self.weight.to(self.problem.weight.dtype)
        return self.hidden, weight


def chunks(problem: Head) -> list[slice]:
    device = "cuda" if problem.hidden.is_cuda else "cpu"
    size = plans.chunk_rows(problem.weight.shape[0], problem.hidden.element_size(), device)
    count = problem.hidden.shape[0]
    return [slice(begin, min(begin + size, count)) for begin in range(0, max(count, 1), size)]


def _margin(pools: Pools, own: Tensor, scale: Tensor) -> Tensor:
    """logsumexp of the other logits minus the own one; minus infinity without others."""
    # the difference before the scale multiplies it: near ties keep their digits
    return torch.where(pools.total != 0, scale * (pools.best - own) + pools.total.log(), -torch.inf)


def _values(pools: Pools, own: Tensor, scale: Tensor) -> Values:
    margin = _margin(pools, own, scale)
    loss = torch.nn.functional.softplus(margin)
    if pools.moment is None:
        return Values(-loss, None, pools)
    # entropy = logsumexp - sum of p z, both relative to the own logit
    others = scale * (pools.best - own) + pools.moment / torch.where(
        pools.total != 0, pools.total, 1
    )
    mean = torch.where(pools.total != 0, torch.sigmoid(margin) * others, 0.0)
    return Values(-loss, loss - mean, pools)


def _coefficients(found: Values, upstream: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Of exp(scale (x - best)) and of the own entry, for d loss / d x."""
    # 1 - p(own): exact near 0
    share = -torch.expm1(found.logprob)
    total = torch.where(found.pools.total != 0, found.pools.total, 1.0)
    return -upstream * scale * share / total, upstream * scale * share


def _entropy_coefficients(found: Values, own: Tensor, upstream: Tensor, scale: Tensor):
    """d entropy / d z_j = -p_j (log p_j + entropy): as row, own-entry and slope coefficients."""
    share = -torch.expm1(found.logprob)
    total = torch.where(found.pools.total != 0, found.pools.total, 1.0)
    factor = -upstream * scale * share / total
    # log p_j = scale (x_j - best) + log(share / total); 0 log 0 is 0 where no other has a share
    level = torch.where(share > 0, (share / total).log(), 0.0)
    row = factor * (level + found.entropy)
    label = -upstream * scale * found.logprob.exp() * (found.logprob + found.entropy)
    return row, label, factor


def _joined(parts: list[Values]) -> Values:
    logprob = torch.cat([part.logprob for part in parts])
    entropy = None
    if parts[0].entropy is not None:
        entropy = torch.cat([part.entropy for part in parts])
    pools = zip(*(part.pools for part in parts))
    return Values(logprob, entropy, Pools(*(None if p[0] is None else torch.cat(p) for p in pools)))
