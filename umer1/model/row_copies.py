"""Rows used several times: a gather whose gradient is summed in a fixed order, without atomics."""

from __future__ import annotations

import torch
from torch import Tensor


class RowCopies:
    """copies(rows [T, ...]) -> rows[index] [K, ...]; the gradient of a row is the sum over its copies.

    Autograd's own gather adds the gradients in the order in which the GPU happens to finish.
    """

    def __init__(self, index: Tensor, total: int, device: torch.device | str) -> None:
        """index: int64 [K] on the CPU, rows of T = `total`."""
        counts = torch.bincount(index, minlength=total)
        order = index.argsort(stable=True)  # the copies of each row, in a row
        first = counts.cumsum(0) - counts
        column = torch.arange(int(counts.max()))[:, None]
        # K stands for "no copy": a row of zeros
        several = (counts > 1).nonzero()[:, 0]
        places = (first[several] + column).clamp_max(len(index) - 1)
        copies = torch.where(column < counts[several], order[places], len(index))
        single = torch.full((total,), len(index))
        single[counts == 1] = order[first[counts == 1]]
        self.total = total
        self.index, self.single = index.to(device), single.to(device)
        self.several, self.copies = several.to(device), copies.to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        return _Copy.apply(rows, self)


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, plan: RowCopies) -> Tensor:
        ctx.plan = plan
        return rows.index_select(0, plan.index)

    @staticmethod
    def backward(ctx, grad: Tensor):
        plan = ctx.plan
        grad = torch.cat([grad, grad.new_zeros(1, *grad.shape[1:])])
        result = grad.index_select(0, plan.single)
        if len(plan.several):
            copied = grad.index_select(0, plan.copies.flatten())
            summed = copied.unflatten(0, plan.copies.shape).sum(0)
            result.index_copy_(0, plan.several, summed)
        return result, None
