"""gather_hidden and the step of GenerationGather as operators.

Their Triton kernels are imported when an operator first runs.
Legend: R rows of all sequences back to back, B sequences, H hidden size.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.segments import gather_by


@torch.library.custom_op("umer1_kernels::triton_gather_hidden", mutates_args=())
def gather_rows(
    hidden: Tensor,
    input_ids: Tensor,
    begin: Tensor,
    end: Tensor,
    token_id: int,
    last: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """vectors [B, H], row index [B] (-1: absent), norm [B], of hidden [R, H] and input_ids [R]."""
    from umer1_kernels.backends.triton.hidden_gather_kernels import gather

    return gather(hidden, input_ids, begin, end, token_id, last, normalize)


@gather_rows.register_fake
def _(hidden, input_ids, begin, end, token_id, last, normalize):
    dtype, count = checks.compute_dtype(hidden), begin.shape[0]
    vectors = hidden.new_empty((count, hidden.shape[1]), dtype=dtype)
    return vectors, begin.new_empty(count), hidden.new_empty(count, dtype=dtype)


@torch.library.custom_op("umer1_kernels::triton_gather_hidden_backward", mutates_args=())
def gather_rows_backward(
    grad: Tensor,
    vectors: Tensor,
    index: Tensor,
    norm: Tensor,
    rows: int,
    dtype: torch.dtype,
    normalize: bool,
) -> Tensor:
    """The gradient [R, H] of hidden: 0 but in the rows that were taken."""
    from umer1_kernels.backends.triton.hidden_gather_kernels import scatter

    return scatter(grad, vectors, index, norm, rows, dtype, normalize)


@gather_rows_backward.register_fake
def _(grad, vectors, index, norm, rows, dtype, normalize):
    return grad.new_empty((rows, grad.shape[1]), dtype=dtype)


def _save(ctx, inputs, output) -> None:
    hidden, *_, normalize = inputs
    vectors, index, norm = output
    ctx.mark_non_differentiable(index, norm)
    ctx.save_for_backward(vectors, index, norm)
    ctx.rows, ctx.dtype, ctx.normalize = hidden.shape[0], hidden.dtype, normalize


def _backward(ctx, grad: Tensor, *_):
    if torch.is_grad_enabled():
        raise RuntimeError('gather_hidden has no second derivative here; use backend="reference"')
    hidden_grad = gather_rows_backward(grad, *ctx.saved_tensors, ctx.rows, ctx.dtype, ctx.normalize)
    return hidden_grad, None, None, None, None, None, None


gather_rows.register_autograd(_backward, setup_context=_save)
gather_hidden = functools.partial(gather_by, gather_rows)


@torch.library.custom_op("umer1_kernels::triton_generation_step_", mutates_args=("vectors", "hit"))
def generation_step_(
    vectors: Tensor,
    hit: Tensor,
    hidden: Tensor,
    input_ids: Tensor,
    slot_ids: Tensor,
    generated: Tensor,
    token_id: int,
    normalize: bool,
) -> None:
    """GenerationGather.step_ on its vectors [slots, H] float32 and hit [slots]."""
    from umer1_kernels.backends.triton.hidden_gather_kernels import step_

    step_(vectors, hit, hidden, input_ids, slot_ids, generated, token_id, normalize)


@generation_step_.register_fake
def _(vectors, hit, hidden, input_ids, slot_ids, generated, token_id, normalize):
    return None
