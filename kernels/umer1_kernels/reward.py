"""group_reward: how well the rollouts of a pair find each other among those of all pairs."""

from __future__ import annotations

from torch import Tensor

from umer1_kernels import distributed, rollout_groups
from umer1_kernels.backends import choose
from umer1_kernels.reference.reward import score_sides as reference_score_sides
from umer1_kernels.rollout_groups import GroupReward


def group_reward(
    query: Tensor,
    target: Tensor,
    *,
    query_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
    kind: str = "rank_gap",
    group=None,
    backend: str = "auto",
) -> GroupReward:
    """The embedding reward of UME-R1's RL stage, and the advantage within each group of rollouts.

    Rollout i of pair g on one side has S+ = its similarities to the valid rollouts of its own pair
    on the other side (K of them) and S- = its similarities to the valid rollouts of all other
    pairs.

        rank = |S+ among the K largest of S+ and S-| / K        gap = mean(S+) - mean(S-)

    Args:
        query, target: [N, G, d], L2-normalised, so that similarities are cosines. No gradient
            flows.
        query_valid, target_valid: bool [N, G]; False for a rollout without a vector (it never wrote
            `<gen_emb>`).
        kind: what the reward is.
            "rank_gap": rank * gap, the paper's. "rank", "gap": one factor alone.
            "threshold": the share of similarities on the right side of 0.5, the mean of S+'s share
            at or above it and S-'s share below it. "adaptive_threshold": the same with the
            threshold half way between this batch's mean positive and mean negative similarity.
        group: a process group: the pairs of all its processes are each other's candidates. Each
            process passes the same N and gets the rewards of its own pairs.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        GroupReward: query_reward, target_reward, query_advantage, target_advantage [N, G]; rank,
        gap [2, N, G]. The advantage is (r - mean) / (std + 1e-4) over the group, unbiased std.

    Edge cases. A tie between a positive and a negative goes to the negative, so the result does not
    depend on the order of pairs and vectors that are all alike rank 0. An invalid rollout has rank,
    gap and reward 0, takes part in its group's mean and std with that 0, and is in nobody's S+ or
    S-. A row whose S+ or S- is empty (N = 1, or no valid partner) also has rank, gap and reward 0:
    there is nothing to compare. With G = 1 advantages are 0.

    Raises:
        ValueError, TypeError: an argument is wrong, here or on another process of the group; the
            message names it.
    """

    def check() -> str:
        rollout_groups.check_arguments(query, target, query_valid, target_valid, kind)
        return choose("group_reward", backend, query, target).backend

    def alike(chosen: str) -> dict[str, object]:
        # flags may be left out, and the gathers of all backends are the same
        return {"query": distributed.form(query), "kind": kind}

    chosen = distributed.agree(group, check, alike)
    score_sides = reference_score_sides
    if chosen == "cpu":
        from umer1_kernels.backends.cpu.reward import score_sides
    elif chosen == "triton":
        from umer1_kernels.backends.triton.reward import score_sides
    elif chosen == "cuda":
        from umer1_kernels.backends.cuda.reward import rewards

        return rewards(query, target, query_valid, target_valid, kind, group)
    return rollout_groups.rewards(
        score_sides, query, target, query_valid, target_valid, kind, group
    )
