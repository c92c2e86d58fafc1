"""The contrastive loss as one operator: torch.compile sees a node, autograd its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks, contrastive
from umer1_kernels.contrastive import Rows
from umer1_kernels.execution.backends import primitives_of
from umer1_kernels.execution.contrastive import Problem, solve
from umer1_kernels.execution.distributed_pair import distributed_pair
from umer1_kernels.execution.held import Held


def weighted_loss(
    backend: str,
    rows: Rows,
    scale: float | Tensor,
    directions: tuple[str, ...],
    partition: str,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """The loss, and hit [N] bool: the positive beats every negative of the first direction."""
    if not isinstance(scale, Tensor):
        # a fill, not a copy from the host: a CUDA graph may capture it
        scale = torch.full((), scale, dtype=rows.weight.dtype, device=rows.query.device)
    if rows.group is not None and set(directions) == {"q2t", "t2q"} and rows.first_label >= 0:
        problem = _problem(rows, scale, directions, partition)
        return distributed_pair(backend, problem, reduction, rows.group)
    separate = rows.group is not None and any(name[2] == "q" for name in directions)
    other = rows.all_query() if separate else None
    inputs = (rows.query, rows.all_target, other, scale)
    differentiable = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in inputs
    )
    loss, hit, *_ = info_nce_loss(
        *inputs,
        rows.label,
        rows.query_id,
        rows.all_target_id,
        rows.all_query_id() if separate else None,
        rows.weight,
        rows.first_label,
        rows.first_query,
        ",".join(directions),
        partition == "joint",
        reduction,
        # a scalar loss makes its gradient here, where the logits are; "none" in the backward
        differentiable and reduction != "none",
        rows.all_target.requires_grad,
        scale.requires_grad,
        backend,
    )
    return loss, hit


def _problem(rows: Rows, scale: Tensor, directions: tuple[str, ...], partition: str) -> Problem:
    dtype = checks.compute_dtype(rows.query)
    return Problem(
        rows.query, rows.all_target, None, scale.to(dtype).reshape(()), rows.label, rows.first_label,
        rows.first_query, rows.query_id, rows.all_target_id, None, rows.weight.to(dtype),
        directions, partition == "joint", rows.all_target.requires_grad, scale.requires_grad,
    )  # fmt: skip


@torch.library.custom_op("umer1_kernels::info_nce_loss", mutates_args=())
def info_nce_loss(
    query: Tensor,
    target: Tensor,
    other: Tensor | None,
    scale: Tensor,
    label: Tensor,
    query_id: Tensor | None,
    target_id: Tensor | None,
    other_id: Tensor | None,
    weight: Tensor,
    first_label: int,
    first_query: int,
    directions: str,
    joint: bool,
    reduction: str,
    gradients: bool,
    need_target: bool,
    need_scale: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, hit [N], and the gradients of the summed loss in the first four arguments.

    A gradient that is not asked for, not needed, or of candidates no direction uses, comes back
    empty.
    """
    dtype = checks.compute_dtype(query)
    weight = weight.to(dtype)
    problem = Problem(
        query, target, other, scale.to(dtype).reshape(()), label, first_label, first_query,
        query_id, target_id, other_id, weight, tuple(directions.split(",")), joint, need_target,
        need_scale,
    )  # fmt: skip
    with checks.full_precision(query), torch.no_grad():
        loss, hit, found = solve(primitives_of(backend), problem, gradients)
        empty = query.new_zeros(0)
        sides = (found.query, found.target, found.other) if found else (None,) * 3
        by_scale = None if found is None else found.scale
        return (
            contrastive.reduce(loss, weight, reduction),
            hit,
            *(empty.clone() if side is None else side for side in sides),
            query.new_zeros(0, dtype=dtype) if by_scale is None else by_scale,
        )


@info_nce_loss.register_fake
def _(query, target, other, scale, *rest):
    directions, _, reduction, gradients, need_target, need_scale, _ = rest[-7:]
    dtype = checks.compute_dtype(query)

    def like(tensor: Tensor | None, used: bool = True) -> Tensor:
        wanted = used and gradients and tensor is not None
        return query.new_empty(tensor.shape if wanted else (0,))

    return (
        query.new_empty(query.shape[:1] if reduction == "none" else (), dtype=dtype),
        query.new_empty(query.shape[:1], dtype=torch.bool),
        like(query),
        like(target, need_target),
        like(other, any(name[2] == "q" for name in directions.split(","))),
        query.new_empty(() if gradients and need_scale else (0,), dtype=dtype),
    )


def _save(ctx, inputs, output) -> None:
    tensors, ctx.options = inputs[:9], inputs[9:]
    ctx.set_materialize_grads(False)  # zeros the size of every output otherwise
    ctx.mark_non_differentiable(*output[1:])
    ctx.forms = [None if each is None else (each.shape, each.dtype) for each in tensors[:4]]
    ctx.save_for_backward(*tensors)
    ctx.held = Held(list(output[2:])) if ctx.options[4] != "none" else None


def _backward(ctx, grad: Tensor | None, *_):
    if torch.is_grad_enabled():
        raise RuntimeError('info_nce has no second derivative here; use backend="reference"')
    if grad is None:
        return (None,) * 18
    *inputs, weight = ctx.saved_tensors
    *start, reduction, _, need_target, need_scale, backend = ctx.options

    def again(weight: Tensor = weight, reduction: str = reduction) -> list[Tensor]:
        options = (reduction, True, need_target, need_scale, backend)
        return list(info_nce_loss(*inputs, weight, *start, *options)[2:])

    if ctx.held is None:
        gradients = again(weight * grad.to(weight.dtype), "sum")
    else:
        gradients = ctx.held.take(grad, again)
    results = [
        gradient.to(form[1]).reshape(form[0]) if form is not None and gradient.numel() else None
        for gradient, form in zip(gradients, ctx.forms, strict=True)
    ]
    return *results, *(None,) * 14


info_nce_loss.register_autograd(_backward, setup_context=_save)
