"""Stage two: GRPO on both sides, rewarded by how well the generated vectors find each other."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor

import umer1_kernels as kernels
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import pack
from umer1.progress import progress_bar
from umer1.training.batching import GroupedBatches
from umer1.training.collate import side_key
from umer1.training.loop import Run
from umer1.training.rollouts import Completion, roll_out
from umer1.training.settings import RLConfig
from umer1.training.start import load_pairs, start
from umer1.training.wrapped import Trainee


def run(config: RLConfig, *, progress: bool = True) -> Path:
    """Train from `config.model`; returns the directory of the finished model. Killed runs resume as in SFT."""
    pairs = load_pairs(config, "rl")
    policy, processor = start(config, pairs)
    keys = [side_key(pair.target) for pair in pairs] if config.distinct_targets else None
    batches = GroupedBatches(
        [pair.dataset for pair in pairs], config.batch_size, config.group_size, config.seed, keys
    )
    accumulation = config.gradient_accumulation
    total = config.steps or max(
        1, math.floor(config.epochs * batches.batches_per_epoch / accumulation)
    )
    state = Run(config, total, processor, stage="rl", pairs=pairs)
    accelerator = state.accelerator
    if accelerator.num_processes > 1:
        # ranks would run different numbers of micro-batches, and wait for each other for ever
        raise ValueError(f"RL runs in one process so far, got {accelerator.num_processes}")
    reference = (
        copy.deepcopy(policy).requires_grad_(False).eval().to(accelerator.device)
        if config.beta
        else None
    )
    policy.gradient_checkpointing = config.gradient_checkpointing
    if config.freeze_vision:
        policy.vision.requires_grad_(False)
        policy.vision.merger.requires_grad_(True)
    _, optimizer = state.prepare(Trainee(policy))
    source = batches.batches(state.step * accumulation)
    with progress_bar(
        "rl", total - state.step, unit="step", show=progress and accelerator.is_main_process
    ) as bar:
        while not state.finished:
            began = time.monotonic()
            rate = state.set_learning_rate(optimizer)
            numbers: dict[str, float] = {}
            for micro in range(accumulation):
                chosen = next(source)
                batch = roll_out(
                    policy,
                    processor,
                    [pairs[index] for index in chosen],
                    config,
                    seed=config.seed + (state.step * accumulation + micro) * 1_000_003,
                )
                learned = _learn(
                    policy, policy, reference, batch.completions, config, accelerator, accumulation
                )
                for name, value in {**batch.metrics, **learned}.items():
                    numbers[name] = numbers.get(name, 0.0) + value / accumulation
            norm = state.update(numbers)
            seconds = time.monotonic() - began
            bar.advance(loss=numbers["loss"], reward=numbers["reward"], gap=numbers["gap"])
            if state.step % config.log_every == 0 or state.finished:
                rollouts = 2 * config.batch_size * config.generations * accumulation
                state.log(
                    {
                        **numbers,
                        "learning_rate": rate,
                        "gradient_norm": math.nan if norm is None else norm,
                        "rollouts_per_second": rollouts / seconds,
                    }
                )
            state.save_if_due()
    return state.save_final()


def _learn(
    model: torch.nn.Module,
    policy: Qwen2VL,
    reference: Qwen2VL | None,
    completions: list[Completion],
    config: RLConfig,
    accelerator,
    accumulation: int,
) -> dict[str, float]:
    """One backward over all completions, in micro-batches of `microbatch_tokens`.

    L = mean over completions of [ sum_t l_t / normalizer ]: the mean over both sides' completions together is the
    released (L_query + L_target) / 2, since both sides have equally many.
    """
    numbers = {"loss": 0.0, "kl": 0.0}
    tokens = sum(len(each.sequence.input_ids) - each.start for each in completions)
    normalizer = config.normalizer * len(completions)
    for part in _microbatches(completions, config.microbatch_tokens):
        packed = pack([each.sequence for each in part], policy.config.vision.spatial_merge_size).to(
            accelerator.device
        )
        positions, advantage = _completion_positions(part, packed.cu_seqlens)
        ids = packed.input_ids[positions + 1]
        mask = torch.ones_like(advantage)
        reference_logprob = None
        if reference is not None:
            with torch.no_grad():
                reference_logprob = kernels.linear_logprob(
                    reference(packed)[positions],
                    reference.head_weight,
                    ids,
                    temperature=config.temperature,
                )
        hidden = model(packed)[positions]
        loss = kernels.grpo_loss(
            hidden,
            policy.head_weight,
            ids,
            advantage,
            mask=mask,
            ref_logprob=reference_logprob,
            clip=config.clip,
            beta=config.beta,
            normalizer=normalizer,
            temperature=config.temperature,
        )
        accelerator.backward(loss.loss / accumulation)
        numbers["loss"] += float(loss.loss.detach())
        numbers["kl"] += float(loss.kl.detach()) * len(positions) / tokens
    return numbers


def _microbatches(completions: list[Completion], limit: int) -> list[list[Completion]]:
    parts: list[list[Completion]] = [[]]
    size = 0
    for each in completions:
        length = len(each.sequence.input_ids)
        if parts[-1] and size + length > limit:
            parts.append([])
            size = 0
        parts[-1].append(each)
        size += length
    return parts


def _completion_positions(part: list[Completion], cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Packed positions that predict completion tokens (int64 [C]) and each one's advantage (float32 [C])."""
    device = cu_seqlens.device
    positions, advantages = [], []
    for each, offset in zip(part, cu_seqlens.tolist()):
        length = len(each.sequence.input_ids)
        positions.append(torch.arange(offset + each.start - 1, offset + length - 1))
        advantages.append(torch.full((length - each.start,), each.advantage))
    return torch.cat(positions).to(device), torch.cat(advantages).to(device)
