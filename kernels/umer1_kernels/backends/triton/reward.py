"""group_reward's row scores as one operator: Triton kernels that are imported when it first runs."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from umer1_kernels.rollout_groups import Scores, Side, rewards_from_scores


@torch.library.custom_op("umer1_kernels::triton_group_reward_scores", mutates_args=())
def group_reward_scores(
    similarity: Tensor,
    row_valid: Tensor,
    candidate_valid: Tensor,
    threshold: Tensor,
    group_size: int,
    first_group: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """[R] each, from similarity [R, C]; see `rollout_groups.Side`."""
    from umer1_kernels.backends.triton.reward_kernel import scores

    return scores(similarity, row_valid, candidate_valid, threshold, group_size, first_group)


@group_reward_scores.register_fake
def _(similarity, row_valid, candidate_valid, threshold, group_size, first_group):
    return tuple(similarity.new_empty(similarity.shape[0]) for _ in range(3))


def score_side(side: Side) -> Scores:
    return Scores(
        *group_reward_scores(
            side.similarity,
            side.row_valid,
            side.candidate_valid,
            side.threshold,
            side.group_size,
            side.first_group,
        )
    )


score_sides = functools.partial(rewards_from_scores, score_side)
