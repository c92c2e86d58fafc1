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
from umer1_kernels.execution.held import Held
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
        return loss, *_gradients(live, hidden, weight, *gradients)


@linear_cross_entropy_sum.register_fake
def _(hidden, weight, target, mask, mean, need_hidden, need_weight, backend):
    return _loss_like(hidden, weight), *_gradients_like(hidden, weight, need_hidden, need_weight)


def _save_cross_entropy(ctx, inputs, output) -> None:
    *tensors, ctx.mean, ctx.need_hidden, ctx.need_weight, ctx.backend = inputs
    ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors)
    ctx.held = Held(list(output[1:]))


def _cross_entropy_backward(ctx, grad: Tensor | None, *_):
    _refuse_second_derivative("linear_cross_entropy")
    if grad is None:
        return (None,) * 8

    def again():
        needs = (ctx.need_hidden, ctx.need_weight)
        return linear_cross_entropy_sum(*ctx.saved_tensors, ctx.mean, *needs, ctx.backend)[1:]

    return *_needed(ctx.held.take(grad, again)), *(None,) * 6


linear_cross_entropy_sum.register_autograd(
    _cross_entropy_backward, setup_context=_save_cross_entropy
)


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
        return _gradients(live, hidden, weight, *gradients)


@linear_logprob_gradients.register_fake
def _(hidden, weight, *rest):
    return _gradients_like(hidden, weight, *rest[-3:-1])


def _save_logprob(ctx, inputs, output) -> None:
    *tensors, ctx.temperature, ctx.entropy, ctx.backend = inputs
    ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[2:])


def _logprob_backward(ctx, logprob_grad: Tensor | None, entropy_grad: Tensor | None, *_):
    _refuse_second_derivative("linear_logprob")
    if logprob_grad is None:
        logprob_grad = ctx.saved_tensors[4].new_zeros(ctx.saved_tensors[3].shape)
    gradients = linear_logprob_gradients(
        *ctx.saved_tensors, logprob_grad, entropy_grad, ctx.temperature, *ctx.needs_input_grad[:2],
        ctx.backend,
    )  # fmt: skip
    return *_needed(gradients), *(None,) * 5


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
        return loss, *means, *_gradients(live, hidden, weight, *gradients)


@grpo_loss_sum.register_fake
def _(hidden, weight, *rest):
    losses = tuple(_loss_like(hidden, weight) for _ in range(4))
    return *losses, *_gradients_like(hidden, weight, *rest[-3:-1])


def _save_grpo(ctx, inputs, output) -> None:
    ctx.options = inputs[7:]
    ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:7])
    ctx.held = Held(list(output[4:]))


def _grpo_backward(ctx, grad: Tensor | None, *_):
    _refuse_second_derivative("grpo_loss")
    if grad is None:
        return (None,) * 15

    def again():
        return grpo_loss_sum(*ctx.saved_tensors, *ctx.options)[4:]

    return *_needed(ctx.held.take(grad, again)), *(None,) * 13


grpo_loss_sum.register_autograd(_grpo_backward, setup_context=_save_grpo)


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


def _loss_like(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden.new_empty((), dtype=checks.compute_dtype(hidden, weight))


def _gradients(
    live: linear.Live,
    hidden: Tensor,
    weight: Tensor,
    hidden_grad: Tensor | None,
    weight_grad: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return (
        hidden.new_empty(0) if hidden_grad is None else live.spread(hidden_grad).to(hidden.dtype),
        weight.new_empty(0) if weight_grad is None else weight_grad.to(weight.dtype),
    )


def _gradients_like(
    hidden: Tensor, weight: Tensor, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def _needed(gradients) -> list[Tensor | None]:
    return [gradient if gradient.numel() else None for gradient in gradients]


def _refuse_second_derivative(function: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(f'{function} has no second derivative here; use backend="reference"')
