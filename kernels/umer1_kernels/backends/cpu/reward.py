"""group_reward's row scores by the compiled operator."""

from __future__ import annotations

from umer1_kernels.backends.cpu.operators import operators
from umer1_kernels.rollout_groups import Scores, Side


def score_side(side: Side) -> Scores:
    """Rank, gap and threshold share of every rollout of one side."""
    return Scores(
        *operators.group_reward_scores(
            side.similarity,
            side.row_valid,
            side.candidate_valid,
            side.threshold,
            side.group_size,
            side.first_group,
        )
    )
