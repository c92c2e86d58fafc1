"""What the `group=` forms need: every process's rows, with gradients that flow back to their owner.

Each process returns the loss of its own rows; the mean over processes is the global loss, so the
averaging of gradients that DistributedDataParallel does gives the global gradient.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_size(group) -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without a group."""
    if group is None:
        return 0, 1
    if not dist.is_initialized():
        raise ValueError("group was given, but torch.distributed is not initialised")
    return dist.get_rank(group), dist.get_world_size(group)


def check_even(group, **tensors: Tensor) -> None:
    """Every process must bring the same shapes: a gather of uneven rows would hang."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    gathered: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, shapes, group=group)
    for rank, other in enumerate(gathered):
        if other != gathered[0]:
            raise ValueError(
                f"group: process {rank} has shapes {other}, process 0 {gathered[0]}; every process "
                f"must bring the same number of rows (drop or pad the last batch)"
            )


def gather_rows(rows: Tensor, group) -> Tensor:
    """[R, ...] here -> [R * processes, ...] in rank order, differentiable."""
    return rows if group is None else _GatherRows.apply(rows, group)


def gather_values(values: Tensor | None, group) -> Tensor | None:
    """`gather_rows` for ids and masks: no gradient, None stays None."""
    if values is None or group is None:
        return values
    return torch.cat(_all_gather(values.detach(), group))


def sum_over(value: Tensor, group) -> Tensor:
    """The sum of `value` over the processes, without gradient."""
    total = value.detach().clone()
    if group is not None:
        dist.all_reduce(total, group=group)
    return total


class _GatherRows(torch.autograd.Function):
    """Forward: all-gather. Backward: the sum of what all processes hold for this one's rows."""

    @staticmethod
    def forward(ctx, rows: Tensor, group) -> Tensor:
        ctx.group, ctx.count = group, rows.shape[0]
        return torch.cat(_all_gather(rows, group))

    @staticmethod
    def backward(ctx, grad: Tensor):
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total.narrow(0, dist.get_rank(ctx.group) * ctx.count, ctx.count), None


def _all_gather(values: Tensor, group) -> list[Tensor]:
    # gloo has no all_gather for bool
    sent = values.to(torch.uint8) if values.dtype == torch.bool else values
    parts = [
        torch.empty_like(sent, memory_format=torch.contiguous_format)
        for _ in range(dist.get_world_size(group))
    ]
    dist.all_gather(parts, sent.contiguous(), group=group)
    return [part.to(values.dtype) for part in parts]
