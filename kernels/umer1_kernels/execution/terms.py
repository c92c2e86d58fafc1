"""From pools to losses and coefficients: the arithmetic every plan shares.

With z the logits of a row's negatives and margin m = logsumexp(z) - z_own, the row's loss is
softplus(m): never negative and exact near zero. sigmoid(m) is the negatives' share of the softmax, so
d loss / d z = sigmoid(m) softmax(z) and d loss / d z_own = -sigmoid(m): nothing cancels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from umer1_kernels import checks
from umer1_kernels.execution.protocol import Pools

WIDE_ROWS = 64  # rows that are widened to the compute dtype at a time


class Terms(NamedTuple):
    """Per row: its loss; what its own logit's gradient is; each pool's coefficient [pools, R]."""

    loss: Tensor
    hit: Tensor
    pull: Tensor
    coefficients: Tensor


def own_logits(rows: Tensor, candidates: Tensor, label: Tensor) -> Tensor:
    """<rows_i, candidates_label_i> in the compute dtype, unscaled."""
    dtype = checks.compute_dtype(rows)
    result = torch.empty(rows.shape[0], dtype=dtype, device=rows.device)
    for part in _parts(rows):
        result[part] = (rows[part].to(dtype) * candidates[label[part]].to(dtype)).sum(1)
    return result


def inner_product(one: Tensor, other: Tensor) -> Tensor:
    """sum of one * other in the compute dtype."""
    dtype = checks.compute_dtype(one)
    total = torch.zeros((), dtype=dtype, device=one.device)
    for part in _parts(one):
        total += (one[part].to(dtype) * other[part].to(dtype)).sum()
    return total


def _parts(rows: Tensor) -> list[slice]:
    # on a GPU launches cost more than memory
    size = WIDE_ROWS if rows.device.type == "cpu" else 2**16
    return [slice(begin, begin + size) for begin in range(0, rows.shape[0], size)]


def terms(pools: list[Pools], own: Tensor, scale: Tensor, weight: Tensor, joint: bool) -> Terms:
    """The mean of the pools' softmaxes, or (joint) one softmax over all their negatives.

    The coefficients hold weight_i and are those of exp(scale (x - best)); `pull` is the gradient of the
    own logit z. Both belong to d loss / d z.
    """
    best = torch.stack([pool.best for pool in pools])
    total = torch.stack([pool.total for pool in pools])
    # the difference before the scale multiplies it: near ties keep their digits
    lead = scale * (best - own)
    pool_margins = torch.where(total != 0, lead + total.log(), -torch.inf)
    margins = pool_margins.logsumexp(0, keepdim=True) if joint else pool_margins
    share = torch.sigmoid(margins) * (weight / len(margins))
    # each pool's part of its softmax; no part where no pool has a negative
    parts = share * torch.exp(pool_margins - margins).nan_to_num(0.0)
    coefficients = parts / torch.where(total != 0, total, 1.0)
    hit = torch.where(total[0] != 0, lead[0] < 0, True)
    return Terms(softplus(margins).mean(0), hit, -share.sum(0), coefficients)
