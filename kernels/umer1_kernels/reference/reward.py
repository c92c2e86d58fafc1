"""The embedding reward of a group of rollouts, in plain PyTorch.

Legend: R rollouts of one side, C candidates (rollouts of the other side), G rollouts per pair.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from umer1_kernels import rollout_groups
from umer1_kernels.rollout_groups import GroupReward, Scores, Side, rewards_from_scores


def group_reward(
    query: Tensor,
    target: Tensor,
    *,
    query_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
    kind: str = "rank_gap",
    group=None,
) -> GroupReward:
    """See umer1_kernels.group_reward."""
    return rollout_groups.rewards(
        score_sides, query, target, query_valid, target_valid, kind, group
    )


def score_side(side: Side) -> Scores:
    """Rank, gap and threshold share of every rollout of one side."""
    similarity, size = side.similarity, side.group_size
    count, candidates = similarity.shape
    row_group = torch.arange(count, device=similarity.device) // size + side.first_group
    candidate_group = torch.arange(candidates, device=similarity.device) // size
    same = row_group[:, None] == candidate_group
    positive = same & side.candidate_valid
    negative = ~same & side.candidate_valid
    positives, negatives = positive.sum(1), negative.sum(1)

    in_top = _positives_in_top(side, row_group, negative, positives)
    rank = in_top.to(torch.float64) / positives.clamp_min(1)
    gap = _mean(similarity, positive) - _mean(similarity, negative)
    above = similarity >= side.threshold
    share = (_mean(above, positive) + _mean(~above, negative)) / 2
    scored = side.row_valid & (positives > 0) & (negatives > 0)
    return Scores(*(torch.where(scored, value, 0.0) for value in (rank, gap, share)))


score_sides = functools.partial(rewards_from_scores, score_side)


def _positives_in_top(side: Side, row_group: Tensor, negative: Tensor, positives: Tensor) -> Tensor:
    """[R]: how many of a row's K positives are among its K nearest; ties go to the negatives."""
    size = side.group_size
    own_columns = row_group[:, None] * size + torch.arange(size, device=row_group.device)  # [R, G]
    own_valid = side.candidate_valid[own_columns]
    own = side.similarity.gather(1, own_columns).masked_fill(~own_valid, float("-inf"))
    not_below = side.similarity[:, None, :] >= own[:, :, None]  # [R, G, C]
    negatives_ahead = (not_below & negative[:, None, :]).sum(2)
    # place of each positive among the positives, best first
    place = own.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (own_valid & (negatives_ahead + place < positives[:, None])).sum(1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    total = torch.where(mask, values, 0).sum(1).to(torch.float64)
    return total / mask.sum(1).clamp_min(1)
