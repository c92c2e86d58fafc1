"""Rollouts of both sides and their rewards: everything RL knows before its gradient."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

import umer1_kernels as kernels
from umer1.data.records import Pair, Side
from umer1.engine import Generated, Prompt, Sampling, generate
from umer1.model.packed_weights import obstacle, pack_weights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence
from umer1.processor import Processor
from umer1.prompts import format_ok
from umer1.training.collate import side_item
from umer1.training.objectives import group_advantage
from umer1.training.samples import rollout_rows
from umer1.training.settings import RLConfig


@dataclass(slots=True)
class Completion:
    """One rollout to learn from: prompt + completion, where the completion starts, its advantage."""

    sequence: Sequence
    start: int
    advantage: float


@dataclass(slots=True)
class RolloutBatch:
    """Completions of both sides and what to log about them."""

    completions: list[Completion]
    metrics: dict[str, float]
    samples: list[dict]  # see umer1.training.samples


def roll_out(
    model: Qwen2VL,
    processor: Processor,
    pairs: list[Pair],
    config: RLConfig,
    *,
    seed: int,
    samples: int = 0,
) -> RolloutBatch:
    """Sample G completions for each side of each pair from the policy, and give each its advantage.

    R = format_weight * R_format + R_embedding; the advantage compares a pair's own G rollouts of one side. A
    completion without a generated `<gen_emb>` has no vector: its embedding reward is 0, it is nobody's positive or
    negative, and it is counted in `missing`. The rollouts of the first `samples` pairs come back as rows to look at.
    """
    prompts = [
        Prompt(sequence, number, processor.disc_position(sequence))
        for number, sequence in enumerate(
            [rl_prompt(pair.query, processor) for pair in pairs]
            + [rl_prompt(pair.target, processor) for pair in pairs]
        )
    ]
    sampling = Sampling(config.max_new_tokens, config.temperature, seed=seed, stop="eos")
    training = model.training
    with nullcontext() if obstacle(model) else pack_weights(model, keep=True):
        results = generate(
            model.eval(),
            prompts,
            sampling,
            gen_id=processor.gen_id,
            eos_id=processor.eos_id,
            samples=config.generations,
            slots=config.rollout_slots,
        )
    model.train(training)
    query, target = results[: len(pairs)], results[len(pairs) :]
    rewards = kernels.group_reward(
        _vectors(query),
        _vectors(target),
        query_valid=_hits(query),
        target_valid=_hits(target),
        kind=config.reward,
    )
    formats = [_formats(side, processor) for side in (query, target)]
    totals = [
        config.format_weight * form + embedding.float().cpu()
        for form, embedding in zip(formats, (rewards.query_reward, rewards.target_reward))
    ]
    advantages = torch.cat([group_advantage(total) for total in totals])
    completions = [
        Completion(
            prompt.sequence.extend(rollout.tokens), len(prompt.sequence.input_ids), float(advantage)
        )
        for prompt, result, row in zip(prompts, results, advantages)
        for rollout, advantage in zip(result.rollouts, row)
    ]
    scores = {
        "format": torch.stack(formats),
        "rank": rewards.rank,
        "gap": rewards.gap,
        "reward": torch.stack(totals),
        "advantage": advantages.view(2, len(pairs), -1),
    }
    shown = rollout_rows(pairs, results, scores, processor.decode, samples) if samples else []
    numbers = _metrics(results, query, target, totals, formats, rewards)
    return RolloutBatch(completions, numbers, shown)


def rl_prompt(side: Side, processor: Processor) -> Sequence:
    """The RL wording of one side, media included whatever their kind."""
    return processor.encode(side_item(side), mode="gen", dialect="rl")


def _vectors(side: list[Generated]) -> Tensor:
    return torch.stack(
        [torch.stack([rollout.vector for rollout in result.rollouts]) for result in side]
    )


def _hits(side: list[Generated]) -> Tensor:
    return torch.tensor(
        [[rollout.hit for rollout in result.rollouts] for result in side],
        device=side[0].rollouts[0].vector.device,
    )


def _formats(side: list[Generated], processor: Processor) -> Tensor:
    return torch.tensor(
        [
            [float(format_ok(processor.decode(rollout.tokens))) for rollout in result.rollouts]
            for result in side
        ]
    )


def _metrics(results, query, target, totals, formats, rewards) -> dict[str, float]:
    rollouts = [rollout for result in results for rollout in result.rollouts]
    disc = [torch.stack([result.disc for result in side]) for side in (query, target)]
    nearest = (disc[0] @ disc[1].T).argmax(1)
    total = torch.cat(totals)
    return {
        "reward": float(total.mean()),
        "format": float(torch.cat(formats).mean()),
        "rank": float(rewards.rank.float().mean()),
        "gap": float(rewards.gap.float().mean()),
        "missing": sum(not rollout.hit for rollout in rollouts) / len(rollouts),
        "flat_groups": float((total.std(1) < 1e-6).float().mean()),
        "truncated": sum(rollout.finish == "length" for rollout in rollouts) / len(rollouts),
        "completion_tokens": sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts),
        "disc_hit": float(
            (nearest == torch.arange(len(query), device=nearest.device)).float().mean()
        ),
    }
