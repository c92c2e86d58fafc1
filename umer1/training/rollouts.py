"""Rollouts of both sides and their rewards: everything RL knows before its gradient."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from umer1.engine import Generated, Prompt, Sampling, generate
from umer1.model.packed_weights import obstacle, pack_weights
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.training.remote_rollouts import generate_remotely
from umer1.training.rewards import Rewards, score
from umer1.training.rl_prompts import PromptPair
from umer1.training.rollout_pack import RolloutGroup
from umer1.training.rollout_share import RolloutShare
from umer1.training.samples import rollout_rows
from umer1.training.settings import RLConfig
from umer1_kernels.distributed import gather_values


@dataclass(slots=True)
class RolloutBatch:
    """What one round of rollouts gives this process.

    Attributes:
        groups: to learn from; without the flat ones if the config says so.
        metrics: means over this process's rollouts; every process has as many.
        samples: rows to read, see umer1.training.samples.
    """

    groups: list[RolloutGroup]
    metrics: dict[str, float]
    samples: list[dict] = field(default_factory=list)


def roll_out(
    model: Qwen2VL,
    processor: Processor,
    batches: list[list[PromptPair]],
    config: RLConfig,
    *,
    seed: int,
    group=None,
    samples: int = 0,
) -> RolloutBatch:
    """Sample G completions for each side of each pair from the policy, and give each its advantage.

    Args:
        model: the policy, every weight whole.
        batches: this process's pairs of each batch; the pairs of one batch, over all processes, are each other's
            candidates. All batches are rolled out together.
        seed: with a pair's place in its batch it decides the pair's samples, on whatever process they are made.
        group: the process group, None in one process. With more processes than pairs each makes a part of a pair's
            generations.
        samples: pairs of this process whose rollouts come back as rows to read.
    """
    began = time.monotonic()
    share = RolloutShare.of(config, group)
    prompts = [
        replace(prompt, first_sample=share.first)
        for number, batch in enumerate(batches)
        for prompt in _prompts(number, batch, processor, config)
    ]
    results = _generate(model, processor, prompts, config, seed, share)
    rolled = time.monotonic()
    metrics: dict[str, float] = {}
    groups, rows, first = [], [], 0
    for batch in batches:
        count = len(batch)
        sides = results[first : first + count], results[first + count : first + 2 * count]
        first += 2 * count
        texts = [
            [[processor.decode(each.tokens) for each in result.rollouts] for result in side]
            for side in sides
        ]
        rewards = score(*sides, texts, config, group)
        for name, value in _metrics(*sides, rewards, share).items():
            metrics[name] = metrics.get(name, 0.0) + value / len(batches)
        groups += _groups(batch, sides, rewards, config.skip_flat_groups)
        if samples and not rows:
            shown = {
                part: getattr(rewards, part) for part in ("format", "rank", "gap", "advantage")
            }
            if config.length_penalty:
                shown["length"] = rewards.length
            shown["reward"] = rewards.total
            pairs = [each.pair for each in batch]
            rows = rollout_rows(pairs, sides, shown, processor.decode, samples)
    metrics["rollout_seconds"] = rolled - began
    metrics["reward_seconds"] = time.monotonic() - rolled
    return RolloutBatch(groups, metrics, rows)


def _prompts(
    number: int, batch: list[PromptPair], processor: Processor, config: RLConfig
) -> list[Prompt]:
    """Query prompts, then target prompts, numbered by their place in the batch of all processes."""
    first = number * 2 * config.batch_size
    return [
        Prompt(sequence, first + place, processor.disc_position(sequence))
        for sequence, place in [(pair.query, pair.place) for pair in batch]
        + [(pair.target, config.batch_size + pair.place) for pair in batch]
    ]


def _generate(
    model: Qwen2VL,
    processor: Processor,
    prompts: list[Prompt],
    config: RLConfig,
    seed: int,
    share: RolloutShare,
) -> list[Generated]:
    """A new engine each time: nothing that older weights have computed is left in it."""
    # every parameter of sampling is ours: none comes from the checkpoint's generation config
    sampling = Sampling(
        config.max_new_tokens, config.temperature, top_p=1.0, top_k=0, seed=seed, stop="eos"
    )
    policy = _in_precision(model, config)
    training = policy.training
    with nullcontext() if obstacle(policy) else pack_weights(policy, keep=True) as packed:
        if config.rollout_engine != "native":
            results = generate_remotely(
                policy.eval(), processor, prompts, sampling, config, packed=packed, share=share
            )
        else:
            results = generate(
                policy.eval(),
                prompts,
                sampling,
                gen_id=processor.gen_id,
                eos_id=processor.eos_id,
                samples=share.rollouts,
                slots=config.rollout_slots,
            )
    policy.train(training)
    return results


def _in_precision(model: Qwen2VL, config: RLConfig) -> Qwen2VL:
    """The policy itself or, where training computes in bfloat16 on wider weights, its weights in bfloat16."""
    if config.mixed_precision != "bf16" or model.dtype == torch.bfloat16:
        return model
    rounded = {
        id(each): nn.Parameter(each.detach().to(torch.bfloat16), requires_grad=False)
        for each in model.parameters()
    }
    return copy.deepcopy(model, memo=rounded)


def _groups(
    batch: list[PromptPair], sides: tuple, rewards: Rewards, skip_flat: bool
) -> list[RolloutGroup]:
    return [
        RolloutGroup(
            sequence,
            [torch.tensor(each.tokens) for each in sides[side][row].rollouts],
            rewards.advantage[side, row].tolist(),
        )
        for side in (0, 1)
        for row, sequence in enumerate([(pair.query, pair.target)[side] for pair in batch])
        if not (skip_flat and rewards.flat[side, row])
    ]


def _metrics(
    query: list[Generated], target: list[Generated], rewards: Rewards, share: RolloutShare
) -> dict[str, float]:
    rollouts = [each for result in (*query, *target) for each in result.rollouts]
    lengths = torch.tensor([float(len(each.tokens)) for each in rollouts])
    mean = lambda test: sum(map(test, rollouts)) / len(rollouts)  # noqa: E731
    return {
        "reward": float(rewards.total.mean()),
        "reward_std": float(rewards.std.mean()),
        "format": float(rewards.format.mean()),
        "embedding_reward": float(rewards.embedding.mean()),
        "length_reward": float(rewards.length.mean()),  # before its weight
        "rank": float(rewards.rank.mean()),
        "gap": float(rewards.gap.mean()),
        "missing": mean(lambda each: not each.hit),
        "truncated": mean(lambda each: each.finish == "length"),
        "flat_groups": float(rewards.flat.float().mean()),
        "completion_tokens": float(lengths.mean()),
        "disc_hit": _disc_hit(query, target, share),
    }


def _disc_hit(query: list[Generated], target: list[Generated], share: RolloutShare) -> float:
    """Share of this process's queries whose own target has the nearest discriminative vector of the batch."""
    queries, targets = (torch.stack([result.disc for result in side]) for side in (query, target))
    candidates: Tensor = gather_values(targets, share.group)[:: share.parts]  # each pair once
    own = torch.arange(len(queries), device=queries.device) + share.rank * len(queries)
    return float(((queries @ candidates.T).argmax(1) == own).float().mean())
