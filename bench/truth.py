"""Softmax losses in float64, in blocks: what every variant's gradients are compared with.

Written apart from the library's own reference. Legend: R rows, C columns, D depth;
logits z = scale * rows @ columns.T, of which no more than one block is in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROW_BLOCK, COLUMN_BLOCK = 4096, 8192
SAMPLE = 256


def log_sums(
    rows: Tensor, columns: Tensor, scale: float, *, by_column: bool = False
) -> tuple[Tensor, Tensor | None]:
    """logsumexp of each row of z [R] and, if asked for, of each column [C]; float64."""
    row_sum = rows.new_full((len(rows),), float("-inf"), dtype=torch.float64)
    column_sum = row_sum.new_full((len(columns),), float("-inf")) if by_column else None
    for left in range(0, len(columns), COLUMN_BLOCK):
        block = columns[left : left + COLUMN_BLOCK].detach().double() * scale
        for top in range(0, len(rows), ROW_BLOCK):
            logits = rows[top : top + ROW_BLOCK].detach().double() @ block.T
            part = row_sum[top : top + ROW_BLOCK]
            part.copy_(torch.logaddexp(part, logits.logsumexp(1)))
            if by_column:
                part = column_sum[left : left + COLUMN_BLOCK]
                part.copy_(torch.logaddexp(part, logits.logsumexp(0)))
    return row_sum, column_sum


def row_gradient(
    rows: Tensor, columns: Tensor, scale: float, log_sum: Tensor, label: Tensor, weight: Tensor
) -> Tensor:
    """Gradient by `rows` [R, D] of sum_i weight_i (log_sum_i - z_i,label_i)."""
    total = rows.new_zeros(rows.shape, dtype=torch.float64)
    wide = rows.detach().double()
    for left in range(0, len(columns), COLUMN_BLOCK):
        block = columns[left : left + COLUMN_BLOCK].detach().double()
        share = torch.exp(scale * (wide @ block.T) - log_sum[:, None])
        total += share @ block
    total -= columns.detach()[label].double()
    return total * (scale * weight)[:, None]


def column_gradient(
    rows: Tensor,
    columns: Tensor,
    scale: float,
    log_sum: Tensor,
    label: Tensor,
    weight: Tensor,
    index: Tensor,
) -> Tensor:
    """Gradient of the same loss by `columns[index]`."""
    total = rows.new_zeros((len(index), rows.shape[1]), dtype=torch.float64)
    chosen = columns.detach()[index].double()
    for top in range(0, len(rows), ROW_BLOCK):
        part = slice(top, top + ROW_BLOCK)
        wide = rows[part].detach().double()
        share = torch.exp(scale * (wide @ chosen.T) - log_sum[part, None])
        share -= (label[part, None] == index).double()
        total += (share * weight[part, None]).T @ wide
    return total * scale


def sample(count: int, device: torch.device, size: int = SAMPLE, seed: int = 0) -> Tensor:
    """Sorted distinct row numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:size].sort().values.to(device)
