"""Rollouts of N pairs in groups of G: from vectors to rewards, whichever backend scores a side.

Legend: N pairs here, P pairs of all processes, G rollouts per pair and side, d dimension.
R = N * G rollouts of one side, C = P * G candidates of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import checks, distributed

KINDS = ("rank_gap", "rank", "gap", "threshold", "adaptive_threshold")
FIXED_THRESHOLD = 0.5
STD_EPSILON = 1e-4  # added to the standard deviation of a group, as in the released code


class GroupReward(NamedTuple):
    """float32 (float64 for float64 vectors). Rewards and advantages [N, G]; rank and gap [2, N, G],
    query side first.
    """

    query_reward: Tensor
    target_reward: Tensor
    query_advantage: Tensor
    target_advantage: Tensor
    rank: Tensor
    gap: Tensor


class Rewards(NamedTuple):
    """[2, N, G] each, query side first."""

    reward: Tensor
    advantage: Tensor
    rank: Tensor
    gap: Tensor


class Scores(NamedTuple):
    """[R] each, 0 where nothing can be scored: rank in [0, 1], gap in [-2, 2], share in [0, 1]."""

    rank: Tensor
    gap: Tensor
    share: Tensor


@dataclass(slots=True)
class Side:
    """One side's rollouts against all candidates of the other side."""

    similarity: Tensor  # [R, C]
    row_valid: Tensor | None  # bool [R]; None: all
    candidate_valid: Tensor | None  # bool [C]; None: all
    threshold: Tensor | None  # scalar; None: FIXED_THRESHOLD
    group_size: int  # G
    first_group: int  # the pair number of row 0 among the candidates


@torch.no_grad()
def rewards(
    score_sides: Callable[[Side, Side, str], Rewards],
    query: Tensor,
    target: Tensor,
    query_valid: Tensor | None,
    target_valid: Tensor | None,
    kind: str,
    group,
) -> GroupReward:
    """Both sides' rewards and advantages. Arguments are checked already, and the processes agree."""
    pairs, size = query.shape[:2]
    rank, _ = distributed.rank_and_size(group)
    with checks.full_precision(query):
        query, query_valid = _flat(query, query_valid)
        target, target_valid = _flat(target, target_valid)
        if group is not None:  # a gather needs every process's flags, also from those without
            query_valid, target_valid = (
                _flags(valid, pairs * size, query.device) for valid in (query_valid, target_valid)
            )
        all_query = distributed.gather_values(query, group)
        all_target = distributed.gather_values(target, group)
        all_query_valid = distributed.gather_values(query_valid, group)
        all_target_valid = distributed.gather_values(target_valid, group)
        threshold = None
        if kind == "adaptive_threshold":
            threshold = _middle(all_query, all_query_valid, all_target, all_target_valid, size)
        shared = {"threshold": threshold, "group_size": size, "first_group": rank * pairs}
        of_query = query @ all_target.T
        # one process has the other side's similarities already
        of_target = of_query.T if group is None else target @ all_query.T
        reward, advantage, ranks, gaps = score_sides(
            Side(of_query, query_valid, all_target_valid, **shared),
            Side(of_target, target_valid, all_query_valid, **shared),
            kind,
        )
    return GroupReward(*reward.unbind(), *advantage.unbind(), ranks, gaps)


def rewards_from_scores(
    score_side: Callable[[Side], Scores], query: Side, target: Side, kind: str
) -> Rewards:
    """For backends that score a side at a time: the rest in plain PyTorch."""
    scores = zip(score_side(_filled(query)), score_side(_filled(target)), strict=True)
    shape = (2, -1, query.group_size)
    rank, gap, share = (
        torch.stack(values).to(query.similarity.dtype).view(shape) for values in scores
    )
    reward = reward_of_kind(kind, rank, gap, share)
    return Rewards(reward, advantage(reward), rank, gap)


def _filled(side: Side) -> Side:
    """The same with a tensor for everything that stands for a default."""
    rows, candidates = side.similarity.shape
    threshold = side.threshold
    if threshold is None:
        threshold = side.similarity.new_full((), FIXED_THRESHOLD)
    return replace(
        side,
        row_valid=_flags(side.row_valid, rows, side.similarity.device),
        candidate_valid=_flags(side.candidate_valid, candidates, side.similarity.device),
        threshold=threshold,
    )


def _flags(valid: Tensor | None, count: int, device: torch.device) -> Tensor:
    return torch.ones(count, dtype=torch.bool, device=device) if valid is None else valid


def reward_of_kind(kind: str, rank: Tensor, gap: Tensor, share: Tensor) -> Tensor:
    if kind == "rank_gap":
        return rank * gap
    return {"rank": rank, "gap": gap, "threshold": share, "adaptive_threshold": share}[kind]


def advantage(reward: Tensor) -> Tensor:
    """(r - mean) / (std + 1e-4) over the last dimension, unbiased std; 0 in a group of one."""
    if reward.shape[-1] == 1:
        return torch.zeros_like(reward)
    centred = reward - reward.mean(-1, keepdim=True)
    return centred / (reward.std(-1, keepdim=True) + STD_EPSILON)


def check_arguments(query, target, query_valid, target_valid, kind) -> None:
    """Raise one error naming the first wrong argument of group_reward."""
    checks.check_floating("query", query, 3)
    checks.check_floating("target", target, 3)
    checks.check_shape("target", target, tuple(query.shape))
    checks.check_same("target", target, "query", query, dtype=True)
    if query.numel() == 0:
        raise ValueError(f"query has shape {tuple(query.shape)}; no dimension may be 0")
    checks.check_choice("kind", kind, KINDS)
    for name, valid in (("query_valid", query_valid), ("target_valid", target_valid)):
        if valid is not None:
            checks.check_shape(name, valid, tuple(query.shape[:2]))
            checks.check_same(name, valid, "query", query, dtype=False)
            if valid.dtype != torch.bool:
                raise TypeError(f"{name} has dtype {valid.dtype}; it must be bool")


def _flat(vectors: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """[N, G, d] -> [R, d] in the computing dtype; what an invalid rollout holds is dropped."""
    pairs, size, dimension = vectors.shape
    rows = vectors.detach().reshape(pairs * size, dimension).to(checks.compute_dtype(vectors))
    if valid is None:
        return rows, None
    valid = valid.reshape(pairs * size)
    return torch.where(valid[:, None], rows, 0.0), valid


def middle_of(
    query: Tensor, query_valid: Tensor | None, target: Tensor, target_valid: Tensor | None
) -> Tensor:
    """The adaptive threshold of vectors [P, G, d], a scalar."""
    with checks.full_precision(query):
        return _middle(*_flat(query, query_valid), *_flat(target, target_valid), query.shape[1])


def _middle(
    query: Tensor,
    query_valid: Tensor | None,
    target: Tensor,
    target_valid: Tensor | None,
    size: int,
) -> Tensor:
    """Half way between the mean positive and mean negative similarity, from sums of vectors."""
    query_sum, target_sum = (rows.view(-1, size, rows.shape[1]).sum(1) for rows in (query, target))
    query_count, target_count = (
        _flags(valid, len(rows), rows.device).view(-1, size).sum(1)
        for rows, valid in ((query, query_valid), (target, target_valid))
    )
    positive = (query_sum * target_sum).sum()
    total = query_sum.sum(0) @ target_sum.sum(0)
    positives = (query_count * target_count).sum()
    negatives = query_count.sum() * target_count.sum() - positives
    return (positive / positives.clamp_min(1) + (total - positive) / negatives.clamp_min(1)) / 2
