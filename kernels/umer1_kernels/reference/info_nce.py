"""InfoNCE with its logits in memory and its gradient by autograd.

Legend: N rows, C candidates of one direction, D dimension. See contrastive.py for the directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks, contrastive
from umer1_kernels.contrastive import Block, Rows
from umer1_kernels.dual import DualInfoNCE, dual


def info_nce(
    query: Tensor,
    target: Tensor,
    *,
    scale=50.0,
    labels=None,
    label_offset=0,
    query_ids=None,
    target_ids=None,
    directions=("q2t", "t2q"),
    partition="per_direction",
    row_weight=None,
    reduction="mean",
    group=None,
) -> Tensor:
    """See umer1_kernels.info_nce."""
    rows = contrastive.prepare(
        query,
        target,
        labels=labels,
        label_offset=label_offset,
        query_ids=query_ids,
        target_ids=target_ids,
        row_weight=row_weight,
        reduction=reduction,
        group=group,
    )
    return weighted_loss(rows, scale, tuple(directions), partition, reduction)[0]


def dual_info_nce(gen, disc, *, align: float = 0.0, **same) -> DualInfoNCE:
    """See umer1_kernels.dual_info_nce."""
    return dual(weighted_loss, gen, disc, align=align, **same)


def weighted_loss(
    rows: Rows, scale: float | Tensor, directions: tuple[str, ...], partition: str, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss, and hit [N] bool: the positive beats every negative of the first direction."""
    with checks.full_precision(rows.query):
        dtype = checks.compute_dtype(rows.query)
        positive = scale * (rows.query.to(dtype) * rows.positive.to(dtype)).sum(1)  # [N]
        # logits relative to the positive's: a loss near 0 keeps its digits
        margins = [
            _negative_logits(block, scale, dtype) - positive[:, None]
            for block in contrastive.blocks(rows, directions)
        ]
        hit = margins[0].detach().amax(1) < 0
        softmaxes = [torch.cat(margins, 1)] if partition == "joint" else margins
        own = positive.new_zeros(len(positive), 1)
        losses = [torch.logsumexp(torch.cat([own, margin], 1), 1) for margin in softmaxes]
        return contrastive.reduce(torch.stack(losses).mean(0), rows.weight, reduction), hit


def _negative_logits(block: Block, scale: float | Tensor, dtype: torch.dtype) -> Tensor:
    """[N, C]; -inf where the candidate is no negative of the row."""
    logits = scale * (block.rows.to(dtype) @ block.candidates.to(dtype).T)
    column = torch.arange(logits.shape[1], device=logits.device)
    masked = column == block.excluded[:, None]
    if block.row_id is not None:
        masked = masked | (block.row_id[:, None] == block.candidate_id)
    return logits.masked_fill(masked, float("-inf"))
