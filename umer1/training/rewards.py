"""From rollouts to rewards and advantages.

    R = format_weight * R_format + R_embedding + length_penalty * R_length

R_format is 1 if the completion has the form <think>…</think>…<answer>…<gen_emb>, else 0. R_embedding is the
kernels' group_reward of the chosen kind (UME-R1: rank * gap). A completion that never wrote `<gen_emb>` has no
vector: its R_embedding is 0 and it is nobody's positive or negative.

R_length is the soft over-long punishment of DAPO (arXiv 2503.14476, eq. 13), with L tokens written, at most M, and
a buffer of B tokens:
    0                   L <= M - B
    ((M - B) - L) / B   M - B < L <= M          (so -1 at L = M)

A = (R - mean) / (std + 1e-4) over the G rollouts of one side of a pair, unbiased std.

Legend: N pairs of this process, G rollouts per pair and side; [2, N, G] has the query side first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import umer1_kernels as kernels
from umer1.engine import Generated
from umer1.prompts import format_ok
from umer1.training.objectives import group_advantage
from umer1.training.rollout_share import RolloutShare
from umer1.training.settings import RLConfig

FLAT = 1e-6  # a group whose rewards spread less has nothing to learn from


class Rewards(NamedTuple):
    """float32 [2, N, G] on the CPU; of each group, [2, N], the rewards' unbiased std and whether all are equal."""

    total: Tensor
    advantage: Tensor
    std: Tensor
    flat: Tensor
    format: Tensor
    embedding: Tensor
    length: Tensor
    rank: Tensor
    gap: Tensor


def score(
    query: list[Generated],
    target: list[Generated],
    texts: list[list[list[str]]],
    config: RLConfig,
    group=None,
) -> Rewards:
    """Rewards of N pairs' rollouts of both sides.

    Args:
        texts: [2][N][G], the completions as text.
        group: process group whose pairs are all candidates, each process's as RolloutShare has it; G is then what
            this process makes, while advantages compare all generations of a pair.
    """
    share, sides = RolloutShare.of(config, group), (query, target)
    vectors, hits = ([share.candidates(read(side)) for side in sides] for read in (_vectors, _hits))
    found = kernels.group_reward(
        *vectors,
        query_valid=hits[0],
        target_valid=hits[1],
        kind=config.reward,
        group=share.candidates_group,
    )
    embedding = torch.stack([found.query_reward, found.target_reward]).float().cpu()
    form, written = (
        torch.stack([share.candidates(values.to(vectors[0].device)) for values in both]).cpu()
        for both in (map(_forms, texts), map(_lengths, sides))
    )
    length = torch.zeros_like(embedding)
    if config.length_penalty:
        length = length_reward(written, config.max_new_tokens, config.length_buffer)
    total = config.format_weight * form + embedding + config.length_penalty * length
    rewards = Rewards(
        total=total,
        advantage=torch.stack([group_advantage(side) for side in total]),
        std=total.std(2),
        flat=total.std(2) < FLAT,
        format=form,
        embedding=embedding,
        length=length,
        rank=found.rank.float().cpu(),
        gap=found.gap.float().cpu(),
    )
    return Rewards(*map(share.own, rewards))


def length_reward(written: Tensor, most: int, buffer: int) -> Tensor:
    """R_length of `written` tokens: 0 up to most - buffer, then falling to -1 at `most`."""
    return ((most - buffer - written) / buffer).clamp(-1.0, 0.0)


def _vectors(side: list[Generated]) -> Tensor:
    return torch.stack(
        [torch.stack([rollout.vector for rollout in result.rollouts]) for result in side]
    )


def _hits(side: list[Generated]) -> Tensor:
    return torch.tensor(
        [[rollout.hit for rollout in result.rollouts] for result in side],
        device=side[0].rollouts[0].vector.device,
    )


def _forms(side: list[list[str]]) -> Tensor:
    return torch.tensor([[float(format_ok(text)) for text in row] for row in side])


def _lengths(side: list[Generated]) -> Tensor:
    return torch.tensor([[len(each.tokens) for each in row.rollouts] for row in side])
