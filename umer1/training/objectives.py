"""The losses of UME-R1, stage one (SFT) and stage two (RL), on packed hidden states.

Legend: T packed tokens, U sequences, N pairs, G rollouts per pair and side, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import umer1_kernels as kernels
from umer1.training.collate import SFTBatch


@dataclass(slots=True)
class SFTLoss:
    """Scalars; `total` carries the gradient."""

    total: Tensor
    gen: Tensor
    disc: Tensor
    ce_query: Tensor
    ce_target: Tensor
    gen_hit: Tensor  # share of queries whose own target is the nearest in the batch
    disc_hit: Tensor


def sft_loss(
    hidden: Tensor,
    head_weight: Tensor,
    batch: SFTBatch,
    *,
    gen_id: int,
    disc_id: int,
    scale: float = 50.0,
    cross_entropy_weight: float = 1.0,
    generative: bool = True,
    mask_duplicates: bool = False,
    group=None,
) -> SFTLoss:
    """L = NCE(gen_q, gen_p) + NCE(disc_q, disc_p) + CE_q + CE_p (UME-R1 SFT; all weights 1).

    NCE is symmetric InfoNCE at `scale` over the batch of all processes in `group`; CE is a mean over the supervised
    tokens of one side.

    Args:
        hidden: [T, H] final hidden states of `batch.packed`; head_weight: [V, H].
        generative: False leaves only the disc term (the DUME baseline).
        mask_duplicates: pairs that share a target are not each other's negatives (released: they are).
    """
    disc = _read_out(hidden, batch, disc_id, start=None)
    ids = batch.target_rows if mask_duplicates else None
    same = dict(scale=scale, query_ids=ids, target_ids=ids, group=group)
    zero = hidden.new_zeros((), dtype=torch.float32)
    if not generative:
        query, target = disc[batch.query_rows], disc[batch.target_rows]
        loss = kernels.info_nce(query, target, **same)
        return SFTLoss(
            loss, zero, loss.detach(), zero, zero, zero, _hit(query, target, batch.target_rows)
        )

    gen = _read_out(hidden, batch, gen_id, start=batch.response_start)
    nce = kernels.dual_info_nce(
        (gen[batch.query_rows], gen[batch.target_rows]),
        (disc[batch.query_rows], disc[batch.target_rows]),
        **same,
    )
    token_loss = kernels.linear_cross_entropy(
        hidden, head_weight, batch.next_tokens, reduction="none"
    )
    supervised = (batch.next_tokens != -100).float()
    ce_query, ce_target = (
        (token_loss * supervised * counts).sum() / (supervised * counts).sum().clamp_min(1)
        for counts in (batch.query_tokens, batch.target_tokens)
    )
    total = nce.loss + cross_entropy_weight * (ce_query + ce_target)
    return SFTLoss(
        total,
        nce.gen.detach(),
        nce.disc.detach(),
        ce_query.detach(),
        ce_target.detach(),
        _hit(gen[batch.query_rows], gen[batch.target_rows], batch.target_rows),
        _hit(disc[batch.query_rows], disc[batch.target_rows], batch.target_rows),
    )


def _read_out(hidden: Tensor, batch: SFTBatch, token_id: int, start: Tensor | None) -> Tensor:
    vectors, _ = kernels.gather_hidden(
        hidden, batch.packed.input_ids, token_id, cu_seqlens=batch.packed.cu_seqlens, start=start
    )
    return vectors


@torch.no_grad()
def _hit(query: Tensor, target: Tensor, target_rows: Tensor) -> Tensor:
    best = (query.float() @ target.float().T).argmax(1)
    return (target_rows[best] == target_rows).float().mean()


def group_advantage(reward: Tensor) -> Tensor:
    """A = (R - mean) / (std + 1e-4) over each pair's own rollouts, unbiased std. reward, result: [N, G] float32."""
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
