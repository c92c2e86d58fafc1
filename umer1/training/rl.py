"""Stage two: GRPO on both sides, rewarded by how well the generated vectors find each other.

A round: this process's pairs of `gradient_accumulation` batches are rolled out on both sides by the engine, on the
policy's own weights; vectors of all processes are each other's candidates; then `updates_per_rollout` optimizer
steps learn from the rollouts. A step counts optimizer updates.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from umer1.data.digest import side_digest
from umer1.progress import progress_bar
from umer1.training.batch_report import describe_batches
from umer1.training.loading import group_pairs
from umer1.training.loop import Run
from umer1.training.lora import merged
from umer1.training.policy_forward import Objective
from umer1.training.policy_update import learn, make_parts
from umer1.training.reference_policy import ReferencePolicy
from umer1.training.rl_prompts import prompt_batches, prompt_loader
from umer1.training.rollout_pack import can_share
from umer1.training.rollout_share import RolloutShare
from umer1.training.rollouts import roll_out
from umer1.training.settings import RLConfig
from umer1.training.start import open_pairs, start
from umer1.training.trainable import choose_trainable
from umer1.training.wrapped import Trainee


def run(config: RLConfig, *, progress: bool = True) -> Path:
    """Train from `config.model`; returns the directory of the finished model. Killed runs resume as in SFT."""
    pairs = open_pairs(config, "rl")
    policy, processor = start(config, pairs)
    keys = [side_digest(pair.target) for pair in pairs] if config.distinct_targets else None
    batches = group_pairs(pairs, config, keys)
    accumulation, updates = config.gradient_accumulation, config.updates_per_rollout
    total = config.steps or batches.steps(config.epochs, accumulation) * updates
    state = Run(config, total, processor, stage="rl", pairs=pairs)
    parallel = state.parallel
    state.accelerator.print(
        describe_batches(batches, capacity=config.microbatch_tokens), flush=True
    )
    policy.gradient_checkpointing = config.gradient_checkpointing
    choose_trainable(policy, config, (processor.gen_id, processor.disc_id))
    computed = torch.bfloat16 if config.mixed_precision == "bf16" else policy.dtype
    share = config.share_prompts and can_share(parallel.device, computed, policy.config.head_dim)
    # ZeRO and FSDP2 cast the weights themselves; elsewhere autocast rounds them as they are used
    own = computed if parallel.kind not in ("one", "ddp") else None
    reference = ReferencePolicy(policy, config, parallel.device, own) if config.beta else None
    merge = policy.config.vision.spatial_merge_size
    model, optimizer = state.prepare(Trainee(policy))
    objective = Objective(
        completions=2 * config.batch_size * config.generations * accumulation,
        normalizer=config.normalizer,
        per_length=config.per_length,
        clip=config.clip,
        beta=config.beta,
        temperature=config.temperature,
    )
    pair_share = RolloutShare.of(config, parallel.group)
    loader = prompt_loader(
        pairs,
        batches,
        processor,
        config,
        state.step // updates * accumulation,
        pair_share,
    )
    source = prompt_batches(loader)
    with progress_bar(
        "rl", state.total_steps - state.step, unit="step", show=progress and parallel.is_main
    ) as bar:
        while not state.finished:
            began = time.monotonic()
            first = state.step
            chosen = [next(source) for _ in range(accumulation)]
            shown = state.monitor.samples_due(first, first + updates)
            with parallel.whole_weights() as whole, merged(whole):
                rolled = roll_out(
                    whole,
                    processor,
                    chosen,
                    config,
                    seed=config.seed + first // updates * accumulation * 1_000_003,
                    group=parallel.group,
                    samples=config.samples_count if shown else 0,
                )
            if shown:
                state.monitor.samples(first + updates, rolled.samples)
            rollouts_end = time.monotonic()
            parts = make_parts(rolled.groups, state, config, share=share, spatial_merge=merge)
            names = [pair.where for batch in chosen for pair in batch]
            learned = learn(
                model,
                parts,
                reference,
                state,
                config,
                objective,
                before_update=lambda: state.set_learning_rate(optimizer),
                where=lambda names=names: names,
            )
            seconds = time.monotonic() - began
            numbers = {
                **learned,
                **rolled.metrics,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "skipped_pairs": float(loader.skips.count * pair_share.processes),
                "learn_seconds": time.monotonic() - rollouts_end,
                "rollouts_per_second": objective.completions / seconds,
                "tokens_per_second": parts.packed_tokens * parallel.world_size / seconds,
                "real_token_share": parts.packed_tokens
                / max(parts.packed_tokens, len(parts.packs) * config.microbatch_tokens),
                "learned_tokens": float(parts.tokens),
                "packed_tokens": float(parts.packed_tokens * parallel.world_size),
            }
            bar.advance(
                state.step - first,
                loss=numbers["loss"],
                reward=numbers["reward"],
                gap=numbers["gap"],
            )
            if state.step // config.log_every > first // config.log_every or state.finished:
                state.log(numbers)
            state.save_if_due()
    loader.close()
    return state.save_final()
