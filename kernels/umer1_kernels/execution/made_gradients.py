"""Autograd of operators that make the gradients of hidden and weight in their forward, where the logits are."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.execution import linear
from umer1_kernels.execution.held import Held


def hand_out_gradients(operator, function: str, *, tensors: int, arguments: int) -> None:
    """Register the derivative of `operator`: its last two outputs are the gradients of its first two arguments.

    Args:
        function: what users call it, for the error.
        tensors: how many of its `arguments` are tensors; they come first.
    """

    def save(ctx, inputs, output) -> None:
        ctx.options = inputs[tensors:]
        ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:tensors])
        ctx.held = Held(list(output[-2:]))

    def backward(ctx, grad: Tensor | None, *_):
        refuse_second_derivative(function)
        if grad is None:
            return (None,) * arguments

        def again():
            return operator(*ctx.saved_tensors, *ctx.options)[-2:]

        return *needed(ctx.held.take(grad, again)), *(None,) * (arguments - 2)

    operator.register_autograd(backward, setup_context=save)


def loss_like(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden.new_empty((), dtype=checks.compute_dtype(hidden, weight))


def gradients_of(
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


def gradients_like(
    hidden: Tensor, weight: Tensor, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if need_hidden else (0,)),
        weight.new_empty(weight.shape if need_weight else (0,)),
    )


def needed(gradients) -> list[Tensor | None]:
    return [gradient if gradient.numel() else None for gradient in gradients]


def refuse_second_derivative(function: str) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(f'{function} has no second derivative here; use backend="reference"')
