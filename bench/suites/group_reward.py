"""group_reward: rewards and advantages of N pairs with G rollouts a side; no gradient. R = N * G, d dimension."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import umer1_kernels as kernels
from bench import data
from bench.case import OURS, Case, Expected, Problem, Variant
from bench.graphs import in_graph
from bench.peers import compiled
from bench.suites.ours import backend_of, describe, native

STD_EPSILON = 1e-4


def advantages(reward: Tensor) -> Tensor:
    """[N, G] -> (r - mean) / (std + 1e-4) within each group."""
    centred = reward - reward.mean(1, keepdim=True)
    return centred / (reward.std(1, keepdim=True) + STD_EPSILON)


def released_loop(query: Tensor, target: Tensor) -> Tensor:
    """The formula as released: one rollout after the other, its top G among all, both sides."""
    pairs, size, dimension = query.shape
    result = []
    for own, other in ((query, target), (target, query)):
        candidates = other.reshape(-1, dimension)
        rewards = []
        for row, vector in enumerate(own.reshape(-1, dimension)):
            first = row // size * size
            similarity = candidates @ vector
            positive = similarity[first : first + size]
            negative = torch.cat([similarity[:first], similarity[first + size :]])
            top = torch.topk(torch.cat([positive, negative]), size).indices
            rank = (top < size).sum() / size
            rewards.append(rank * (positive.mean() - negative.mean()))
        reward = torch.stack(rewards).view(pairs, size)
        result += [reward, advantages(reward)]
    return torch.stack(result)


def vectorised(query: Tensor, target: Tensor) -> Tensor:
    """The same with one product and one top-G per side."""
    pairs, size, dimension = query.shape
    similarity = query.reshape(-1, dimension) @ target.reshape(-1, dimension).T
    group = torch.arange(pairs * size, device=query.device)[:, None] // size
    result = []
    for side in (similarity, similarity.T):
        rank = (side.topk(size, dim=1).indices // size == group).sum(1) / size
        own = side.view(pairs * size, pairs, size).sum(2).gather(1, group).squeeze(1)
        others = (side.sum(1) - own) / ((pairs - 1) * size)
        reward = (rank * (own / size - others)).view(pairs, size)
        result += [reward, advantages(reward)]
    return torch.stack(result)


def ours(query: Tensor, target: Tensor, *, backend: str) -> Tensor:
    result = kernels.group_reward(query, target, backend=backend)
    return torch.stack(
        [
            result.query_reward,
            result.query_advantage,
            result.target_reward,
            result.target_advantage,
        ]
    )


@dataclass(frozen=True, kw_only=True)
class GroupReward(Case):
    """Output [4, N, G]: reward and advantage of the queries, then of the targets."""

    suite = "group_reward"
    pairs: int
    rollouts: int = 8
    dim: int = 1536

    def sizes(self):
        return {"N": self.pairs, "G": self.rollouts, "d": self.dim}

    def small(self):
        return replace(self, pairs=2, dim=16)

    def build(self, device):
        query, target = data.embeddings(self.pairs * self.rollouts, self.dim, self.dtype, device)
        shape = (self.pairs, self.rollouts, self.dim)
        return Problem({"query": query.view(shape), "target": target.view(shape)})

    def variants(self, device):
        plain = Variant("vectorised", "eager", vectorised)
        found = [
            Variant(OURS, OURS, partial(ours, backend=backend_of(device))),
            Variant("released-loop", "loop", released_loop, "one rollout after the other"),
            plain,
            Variant("compile", "compile", compiled(vectorised)),
        ]
        if device.type != "cuda":
            return found
        own = native(partial(ours, backend="cuda"))
        return [*found, own, in_graph(own), in_graph(plain)]

    def truth(self, problem):
        query, target = (problem.inputs[name].double() for name in ("query", "target"))
        return {"output": Expected(None, vectorised(query, target))}

    def explain(self, problem):
        query, target = problem.inputs.values()
        return describe(kernels.group_reward, query, target, backend=backend_of(query.device))


def cases(device: str, quick: bool) -> list[Case]:
    shape = {"pairs": 4, "dim": 64} if quick else {"pairs": 16}
    case = GroupReward(name="", dtype=torch.float32, **shape)
    return [replace(case, name=f"n{case.pairs}-g{case.rollouts}-d{case.dim}-fp32")]
