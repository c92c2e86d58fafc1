"""Both contrastive losses of UME-R1 and their sum, over any backend's row losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import contrastive
from umer1_kernels.contrastive import Rows


class DualInfoNCE(NamedTuple):
    """loss = gen + disc + weight * align. `metrics`: device scalars without gradient."""

    loss: Tensor
    gen: Tensor
    disc: Tensor
    align: Tensor
    metrics: dict[str, Tensor]


def dual(
    weighted_loss: Callable[..., tuple[Tensor, Tensor]],
    gen,
    disc,
    *,
    align: float,
    scale=50.0,
    directions=("q2t", "t2q"),
    partition="per_direction",
    reduction="mean",
    **same,
) -> DualInfoNCE:
    """`weighted_loss(rows, scale, directions, partition, reduction) -> (loss, hit [N])`."""

    def loss_of(query: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Rows]:
        rows = contrastive.prepare(query, target, reduction=reduction, **_defaults(same))
        loss, hit = weighted_loss(rows, scale, tuple(directions), partition, reduction)
        return loss, hit, rows

    gen_loss, gen_hit, gen_rows = loss_of(*gen)
    disc_loss, disc_hit, disc_rows = loss_of(*disc)
    align_loss = torch.zeros_like(gen_loss)
    if align:
        crossed = loss_of(gen[0], disc[1])[0], loss_of(disc[0], gen[1])[0]
        align_loss = (crossed[0] + crossed[1]) / 2
    metrics = _metrics("gen", gen_rows, gen_hit) | _metrics("disc", disc_rows, disc_hit)
    loss = gen_loss + disc_loss + align * align_loss
    return DualInfoNCE(loss, gen_loss, disc_loss, align_loss, metrics)


def _defaults(same: dict) -> dict:
    names = ("labels", "query_ids", "target_ids", "row_weight", "group")
    return {"label_offset": same.get("label_offset", 0)} | {name: same.get(name) for name in names}


@torch.no_grad()
def _metrics(name: str, rows: Rows, hit: Tensor) -> dict[str, Tensor]:
    """hit@1 and mean cosines of the positive pairs and of all other pairs, over rows that count.

    The mean over N x M pairs is the product of two mean vectors: no matrix is made.
    """
    live = (rows.weight != 0).float()
    count = live.sum().clamp_min(1)
    query = torch.nn.functional.normalize(rows.query.float(), dim=1) * live[:, None]
    target = torch.nn.functional.normalize(rows.all_target.float(), dim=1)
    positive = torch.nn.functional.normalize(rows.positive.float(), dim=1)
    positive_sum = (query * positive).sum()
    pairs = query.sum(0) @ target.sum(0)
    others = (count * (len(target) - 1)).clamp_min(1)
    return {
        f"{name}_hit": (hit * live).sum() / count,
        f"{name}_positive_cosine": positive_sum / count,
        f"{name}_negative_cosine": (pairs - positive_sum) / others,
    }
