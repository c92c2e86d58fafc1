"""The weighted sum of next-token losses as an operator: three products, gradients made in the forward."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.execution import linear
from umer1_kernels.execution.backends import primitives_of
from umer1_kernels.execution.held import Held
from umer1_kernels.execution.linear_operators import _gradients, _needed, _refuse_second_derivative


@torch.library.custom_op("umer1_kernels::weighted_cross_entropy", mutates_args=())
def weighted_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    mask: Tensor,
    row_weight: Tensor,
    need_hidden: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted sum over the masked tokens, their losses [T], gradients: empty where not needed."""
    primitives = primitives_of(backend)
    with checks.full_precision(hidden), torch.no_grad():
        live = linear.compact(primitives, mask)
        problem = linear.head(live, hidden, weight, target, 1.0, "target")
        dtype = problem.scale.dtype
        factor = live.gather(row_weight.to(dtype)) * live.weight(dtype)
        found, *gradients = linear.values_and_gradients(
            primitives,
            problem,
            lambda rows, _: -factor[rows],
            entropy=False,
            needs=linear.Needs(need_hidden, need_weight),
        )
        loss = -(found.logprob * factor).sum()
        losses = live.spread(-found.logprob * live.weight(dtype))
        return loss, losses, *_gradients(live, hidden, weight, *gradients)


@weighted_cross_entropy.register_fake
def _(hidden, weight, target, mask, row_weight, need_hidden, need_weight, backend):
    dtype = checks.compute_dtype(hidden, weight)
    return (
        hidden.new_empty((), dtype=dtype),
        hidden.new_empty(hidden.shape[0], dtype=dtype),
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def _save(ctx, inputs, output) -> None:
    ctx.options = inputs[5:]
    ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:5])
    ctx.held = Held(list(output[2:]))


def _backward(ctx, grad: Tensor | None, *_):
    _refuse_second_derivative("linear_cross_entropy")
    if grad is None:
        return (None,) * 8

    def again():
        return weighted_cross_entropy(*ctx.saved_tensors, *ctx.options)[2:]

    return *_needed(ctx.held.take(grad, again)), *(None,) * 6


weighted_cross_entropy.register_autograd(_backward, setup_context=_save)
