"""group_reward by one compiled operator: scores, rewards and advantages of both sides."""

from __future__ import annotations

from umer1_kernels.backends.cpu.operators import operators
from umer1_kernels.rollout_groups import KINDS, Rewards, Side


def score_sides(query: Side, target: Side, kind: str) -> Rewards:
    return Rewards(
        *operators.group_reward(
            query.similarity,
            target.similarity,
            query.row_valid,
            target.row_valid,
            target.candidate_valid,
            query.candidate_valid,
            query.threshold,
            query.group_size,
            query.first_group,
            KINDS.index(kind),
        )
    )
