"""The execution protocol in float64, from its formulas; no code of a backend."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels.execution.protocol import Block, Pools


class Truth(NamedTuple):
    logits: Tensor  # [R, C] x_ij, 0 in rows that are not live
    negative: Tensor  # bool [R, C]
    rows: Pools
    columns: Pools


def truth(block: Block) -> Truth:
    """Pools over rows and columns; whatever dead rows hold is not looked at."""
    count, width = block.rows.shape[0], block.candidates.shape[0]
    live = count if block.live is None else min(int(block.live), count)
    rows = block.rows.double().clone()
    rows[live:] = 0.0
    logits = rows @ block.candidates.double().T
    place = torch.arange(width, device=logits.device)
    negative = place != block.excluded[:, None]
    if block.row_id is not None:
        negative &= block.row_id[:, None] != block.candidate_id
    negative[live:] = False
    scale = block.scale.double()
    pools = [_pool(logits, negative, scale, dim) for dim in (1, 0)]
    of_rows = Pools(
        *(torch.where(torch.arange(count, device=x.device) < live, x, 0.0) for x in pools[0])
    )
    return Truth(logits, negative, of_rows, pools[1])


def gradient_truth(
    block: Block,
    found: Truth,
    row: Tensor,
    label: Tensor,
    column: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    """dz [R, C]."""
    scale = block.scale.double()
    exponent = scale * (found.logits - found.rows.best[:, None])
    factor = row.double()[:, None] + (0.0 if slope is None else slope.double()[:, None] * exponent)
    result = factor * torch.exp(exponent)
    if column is not None:
        result = result + column.double() * torch.exp(scale * (found.logits - found.columns.best))
    result = torch.where(found.negative, result, 0.0)
    count = block.rows.shape[0]
    live = count if block.live is None else min(int(block.live), count)
    here = torch.arange(live, device=result.device)
    result[here, block.excluded[:live]] = label.double()[:live]
    return result


def slack(block: Block, found: Truth) -> float:
    """How far exp(scale (x - best)) may be off, relatively, when x is in the compute dtype."""
    size = 1.0 + float(block.scale.abs()) * float(found.logits.abs().max())
    return (1e-14 if block.rows.dtype == torch.float64 else 1e-6) * size


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Frobenius; 0 where both are 0."""
    difference = float((got.double() - wanted.double()).norm())
    return difference and difference / max(float(wanted.double().norm()), 1e-300)


def _pool(logits: Tensor, negative: Tensor, scale: Tensor, dim: int) -> Pools:
    sign = -1.0 if scale < 0 else 1.0
    signed = torch.where(negative, sign * logits, float("-inf"))
    best = sign * signed.amax(dim, keepdim=True)
    exponent = torch.where(negative, scale * (logits - best), 0.0)
    term = torch.where(negative, torch.exp(exponent), 0.0)
    return Pools(best.squeeze(dim), term.sum(dim), (term * exponent).sum(dim))
