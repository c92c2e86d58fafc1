"""group_reward in one launch: no similarities are stored, whatever their number."""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import distributed, rollout_groups
from umer1_kernels.backends.cuda.operators import operators
from umer1_kernels.rollout_groups import KINDS, GroupReward


@torch.no_grad()
def rewards(
    query: Tensor,
    target: Tensor,
    query_valid: Tensor | None,
    target_valid: Tensor | None,
    kind: str,
    group,
) -> GroupReward:
    """Both sides' rewards and advantages. Arguments are checked already, and the processes agree.

    With a process group the vectors of all processes are gathered first, and a threshold that
    depends on all of them is found by torch.
    """
    pairs, first, threshold = query.shape[0], 0, None
    if group is not None:
        first = distributed.rank_and_size(group)[0] * pairs
        # every process must bring flags if one does
        flags = [_flags(query, query_valid), _flags(query, target_valid)]
        query, target, query_valid, target_valid = (
            distributed.gather_values(value, group) for value in (query, target, *flags)
        )
        if kind == "adaptive_threshold":
            threshold = rollout_groups.middle_of(query, query_valid, target, target_valid)
    reward, advantage, rank, gap = operators.group_reward_from_vectors(
        query, target, query_valid, target_valid, threshold, first, pairs, KINDS.index(kind)
    )
    return GroupReward(*reward.unbind(), *advantage.unbind(), rank, gap)


def _flags(query: Tensor, valid: Tensor | None) -> Tensor:
    return query.new_ones(query.shape[:2], dtype=torch.bool) if valid is None else valid
