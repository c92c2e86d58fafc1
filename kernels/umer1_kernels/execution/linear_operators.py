"""The losses of a linear head as operators: torch.compile sees nodes, autograd their gradients.

Cross-entropy and GRPO make their gradients in the forward, where the logits are; log-probabilities,
whose upstream gradients come later, make the logits again in the backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.execution import linear
from umer1_kernels.execution.backends import primitives_of
from umer1_kernels.execution.made_gradients import (
    gradients_like,
    gradients_of,
    hand_out_gradients,
    loss_like,
    needed,
    refuse_second_derivative,
)
from umer1_kernels.reference.linear_loss import k3_divergence


@torch.library.custom_op("umer1_kernels::linear_cross_entropy_sum", mutates_args=())
def linear_cross_entropy_sum(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    mask: Tensor,
    mean: bool,
    need_hidden: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum (or mean) over the masked tokens, and its gradients: empty where they are not needed."""
    primitives = primitives_of(backend)
    with checks.full_precision(hidden), torch.no_grad():
        live = linear.compact(primitives, mask)
        problem = linear.head(live, hidden, weight, target, 1.0, "target")
        count = mask.sum().clamp_min(1).to(problem.scale.dtype)
        factor = live.weight(problem.scale.dtype) / (count if mean else 1.0)
        found, *gradients = linear.values_and_gradients(
            primitives,
            problem,
            lambda rows, _: -factor[rows],
            entropy=False,
            needs=linear.Needs(need_hidden, need_weight),
        )
        loss = -(found.logprob * factor).sum()
        return loss, *gradients_of(live, hidden, weight, *gradients)


@linear_cross_entropy_sum.register_fake
def _(hidden, weight, target, mask, mean, need_hidden, need_weight, backend):
    return loss_like(hidden, weight), *gradients_like(hidden, weight, need_hidden, need_weight)


hand_out_gradients(linear_cross_entropy_sum, "linear_cross_entropy", tensors=4, arguments=8)


@torch.library.custom_op("umer1_kernels::linear_logprob_values", mutates_args=())
def linear_logprob_values(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    mask: Tensor,
    temperature: float,
    entropy: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """log-probability [T], entropy [T] or [0], and the pools [R] that the gradient needs."""
    primitives = primitives_of(backend)
    with checks.full_precision(hidden), torch.no_grad():
        live = linear.compact(primitives, mask)
        problem = linear.head(live, hidden, weight, ids, temperature)
        found = linear.values(primitives, problem, entropy=entropy)
        empty = found.logprob.new_empty(0)
        entropies = live.spread(found.entropy) if entropy else empty
        best, total, moment = found.pools
        moment = empty.clone() if moment is None else moment
        return (
            live.spread(found.logprob),
            entropies,
            live.spread(best),
            live.spread(total),
            live.spread(moment) if entropy else moment,
        )


@linear_logprob_values.register_fake
def _(hidden, weight, ids, mask, temperature, entropy, backend):
    dtype, count = checks.compute_dtype(hidden, weight), hidden.shape[0]
    sizes = (count, count if entropy else 0, count, count, count if entropy else 0)
    return tuple(hidden.new_empty(size, dtype=dtype) for size in sizes)


@torch.library.custom_op("umer1_kernels::linear_logprob_gradients", mutates_args=())
def linear_logprob_gradients(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    mask: Tensor,
    best: Tensor,
    total: Tensor,
    moment: Tensor,
    logprob_grad: Tensor,
    entropy_grad: Tensor | None,
    temperature: float,
    need_hidden: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden and weight, the logits made again; empty where they are not needed."""
    primitives = primitives_of(backend)
    with checks.full_precision(hidden), torch.no_grad():
        live = linear.compact(primitives, mask)
        problem = linear.head(live, hidden, weight, ids, temperature)
        dtype = problem.scale.dtype
        counts = live.weight(dtype)
        pools = linear.Pools(
            live.gather(best), live.gather(total), live.gather(moment) if moment.numel() else None
        )
        upstream = live.gather(logprob_grad.to(dtype)) * counts
        slope = None if entropy_grad is None else live.gather(entropy_grad.to(dtype)) * counts
        needs = linear.Needs(need_hidden, need_weight)
        gradients = linear.gradients(primitives, problem, pools, upstream, slope, needs)
        return gradients_of(live, hidden, weight, *gradients)


@linear_logprob_gradients.register_fake
def _(hidden, weight, *rest):
    return gradients_like(hidden, weight, *rest[-3:-1])


def _save_logprob(ctx, inputs, output) -> None:
    *tensors, ctx.temperature, ctx.entropy, ctx.backend = inputs
    ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[2:])


def _logprob_backward(ctx, logprob_grad: Tensor | None, entropy_grad: Tensor | None, *_):
    refuse_second_derivative("linear_logprob")
    if logprob_grad is None:
        logprob_grad = ctx.saved_tensors[4].new_zeros(ctx.saved_tensors[3].shape)
    gradients = linear_logprob_gradients(
        *ctx.saved_tensors, logprob_grad, entropy_grad, ctx.temperature, *ctx.needs_input_grad[:2],
        ctx.backend,
    )  # fmt: skip
    return *needed(gradients), *(None,) * 5


linear_logprob_values.register_autograd(_logprob_backward, setup_context=_save_logprob)


@torch.library.custom_op("umer1_kernels::grpo_loss_sum", mutates_args=())
def grpo_loss_sum(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    advantage: Tensor,
    mask: Tensor,
    old_logprob: Tensor | None,
    ref_logprob: Tensor | None,
    low: float,
    high: float,
    beta: float,
    normalizer: float,
    temperature: float,
    need_hidden: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, KL, clip fraction, entropy, and the loss's gradients where they are needed."""
    primitives = primitives_of(backend)
    with checks.full_precision(hidden), torch.no_grad():
        live = linear.compact(primitives, mask)
        problem = linear.head(live, hidden, weight, ids, temperature)
        dtype = problem.scale.dtype
        counts = live.weight(dtype)
        rows = {
            "advantage": live.gather(advantage.to(dtype)),
            "old": None if old_logprob is None else live.gather(old_logprob.to(dtype)),
            "reference": None if ref_logprob is None else live.gather(ref_logprob.to(dtype)),
        }

        def coefficient(part: slice, logprob: Tensor) -> Tensor:
            here = {name: None if value is None else value[part] for name, value in rows.items()}
            slope = _token_terms(logprob, **here, low=low, high=high, beta=beta)[3]
            return slope * counts[part] / normalizer

        found, *gradients = linear.values_and_gradients(
            primitives,
            problem,
            coefficient,
            entropy=True,
            needs=linear.Needs(need_hidden, need_weight),
        )
        loss, kl, clipped, _ = _token_terms(found.logprob, **rows, low=low, high=high, beta=beta)
        count = mask.sum().clamp_min(1).to(dtype)
        means = [(value * counts).sum() / count for value in (kl, clipped, found.entropy)]
        loss = (loss * counts).sum() / normalizer
        return loss, *means, *gradients_of(live, hidden, weight, *gradients)


@grpo_loss_sum.register_fake
def _(hidden, weight, *rest):
    losses = tuple(loss_like(hidden, weight) for _ in range(4))
    return *losses, *gradients_like(hidden, weight, *rest[-3:-1])


hand_out_gradients(grpo_loss_sum, "grpo_loss", tensors=7, arguments=15)


def _token_terms(logprob, advantage, old, reference, *, low, high, beta):
    """Per token: loss, KL, whether the clipped branch counts, d loss / d logprob."""
    ratio = torch.ones_like(logprob) if old is None else torch.exp(logprob - old)
    clipped = ratio.clamp(1 - low, 1 + high)
    worse = clipped * advantage < ratio * advantage
    loss = -torch.where(worse, clipped, ratio) * advantage
    slope = torch.where(worse, 0.0, -ratio * advantage)
    kl = torch.zeros_like(logprob)
    if reference is not None:
        kl = k3_divergence(logprob, reference)
        loss = loss + beta * kl
        slope = slope - beta * torch.expm1(reference - logprob)
    return loss, kl, worse.to(logprob.dtype), slope
