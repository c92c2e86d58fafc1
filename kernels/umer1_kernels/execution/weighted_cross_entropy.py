"""The weighted sum of next-token losses as an operator: three products, gradients made in the forward."""

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
)


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
        return loss, losses, *gradients_of(live, hidden, weight, *gradients)


@weighted_cross_entropy.register_fake
def _(hidden, weight, target, mask, row_weight, need_hidden, need_weight, backend):
    loss = loss_like(hidden, weight)
    losses = loss.new_empty(hidden.shape[0])
    return loss, losses, *gradients_like(hidden, weight, need_hidden, need_weight)


hand_out_gradients(weighted_cross_entropy, "linear_cross_entropy", tensors=5, arguments=8)
