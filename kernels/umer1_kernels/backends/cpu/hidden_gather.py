"""gather_hidden by the compiled operator, with its gradient."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from umer1_kernels.backends.cpu.operators import operators
from umer1_kernels.segments import gather_by

gather_hidden = functools.partial(gather_by, operators.gather_hidden)


def _save(ctx, inputs, output) -> None:
    hidden, *_, normalize = inputs
    vectors, index, norm = output
    ctx.mark_non_differentiable(index, norm)
    ctx.save_for_backward(vectors, index, norm)
    ctx.shape, ctx.dtype, ctx.normalize = hidden.shape, hidden.dtype, normalize


def _backward(ctx, grad: Tensor, *_):
    if torch.is_grad_enabled():
        raise RuntimeError('gather_hidden has no second derivative here; use backend="reference"')
    vectors, index, norm = ctx.saved_tensors
    hidden_grad = torch.zeros(ctx.shape, dtype=ctx.dtype, device=grad.device)
    operators.gather_hidden_backward_(hidden_grad, grad, vectors, index, norm, ctx.normalize)
    return hidden_grad, None, None, None, None, None, None


torch.library.register_autograd("umer1_kernels::gather_hidden", _backward, setup_context=_save)
