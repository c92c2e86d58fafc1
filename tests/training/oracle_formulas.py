"""The formulas of UME-R1's two stages as the released code has them, one by one; see oracle.py."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FORMAT = re.compile(r"<think>.*?</think>.*?\s*<answer>.*?\s*<gen_emb>", re.DOTALL)


@dataclass
class Recipe:
    """The numbers of a run, with the released values of what the tests do not shrink."""

    steps: int
    learning_rate: float
    schedule: str
    warmup_ratio: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_grad_norm: float = 1.0
    freeze_vision: bool = True
    scale: float = 50.0
    generations: int = 8
    temperature: float = 1.0
    normalizer: float = 2048.0
    beta: float = 0.04
    clip: tuple[float, float] = (0.2, 0.28)
    max_new_tokens: int = 2048


def symmetric_info_nce(query: Tensor, target: Tensor, scale: float) -> Tensor:
    logits = scale * query @ target.T
    labels = torch.arange(len(query))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def at_last(hidden: Tensor, found: Tensor) -> Tensor:
    """L2-normalised state of each row's last position where `found` [B, T] holds."""
    places = [int(row.nonzero()[-1]) for row in found]
    return F.normalize(
        torch.stack([hidden[row, place] for row, place in enumerate(places)]), dim=-1
    )


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    logprobs = (logits[:, :-1].float() / temperature).log_softmax(-1)
    return logprobs.gather(-1, ids[..., None])[..., 0]


def rank_and_gap(
    row: int, own: Tensor, other: Tensor, own_hit: list[bool], other_hit: list[bool], group: int
) -> tuple[float, float]:
    """|S+ in the top K of S+ and S-| / K, and mean(S+) - mean(S-), of one response; K positives."""
    if not own_hit[row]:
        return 0.0, 0.0
    positive, negative = [], []
    for column in range(len(other)):
        if other_hit[column]:
            similarity = float(own[row].double() @ other[column].double())
            (positive if column // group == row // group else negative).append(similarity)
    if not positive or not negative:
        return 0.0, 0.0
    # ties go to the negatives
    ordered = sorted([(-s, 1) for s in positive] + [(-s, 0) for s in negative])
    rank = sum(is_positive for _, is_positive in ordered[: len(positive)]) / len(positive)
    return rank, sum(positive) / len(positive) - sum(negative) / len(negative)


def advantage(reward: Tensor) -> Tensor:
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)


def rate(recipe: Recipe, fraction: float) -> float:
    """Linear warm-up over a share of the run (from a hundredth), then cosine or linear to zero, or constant."""
    if fraction < recipe.warmup_ratio:
        return recipe.learning_rate * max(fraction / recipe.warmup_ratio, 0.01)
    rest = (fraction - recipe.warmup_ratio) / (1 - recipe.warmup_ratio)
    shapes = {"cosine": (1 + math.cos(math.pi * rest)) / 2, "linear": 1 - rest, "constant": 1.0}
    return recipe.learning_rate * shapes[recipe.schedule]
