"""Stage one: supervised fine-tuning with two contrastive losses and next-token loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from umer1.data.records import Pair
from umer1.processor import Processor
from umer1.progress import progress_bar
from umer1.training.batching import GroupedBatches
from umer1.training.collate import EncodedSide, SFTBatch, collate_sft, encode_side
from umer1.training.loading import PairLoader, shares
from umer1.training.loop import Run, make_optimizer
from umer1.training.objectives import sft_loss
from umer1.training.settings import SFTConfig
from umer1.training.start import open_pairs, start


def run(config: SFTConfig, *, progress: bool = True) -> Path:
    """Train; returns the directory of the finished model.

    A run that was killed goes on from its newest complete checkpoint and sees the batches it would have seen.
    """
    pairs = open_pairs(config, "sft")
    model, processor = start(config, pairs)
    batches = GroupedBatches(
        [pairs.source_names[source] for source in pairs.sources],
        config.batch_size,
        config.group_size,
        config.seed,
    )
    accumulation = config.gradient_accumulation
    total = config.steps or max(
        1, math.floor(config.epochs * batches.batches_per_epoch / accumulation)
    )
    state = Run(config, total, processor, stage="sft")
    accelerator = state.accelerator
    model.gradient_checkpointing = config.gradient_checkpointing
    optimizer = make_optimizer(model, config)
    merge = model.config.vision.spatial_merge_size
    model, optimizer = accelerator.prepare(model.train(), optimizer)
    state.resume()
    group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
    start_batch = state.step * accumulation
    rank, world_size = accelerator.process_index, accelerator.num_processes
    loader = PairLoader(
        pairs,
        SFTEncoder(processor, config.max_length),
        partial(collate_sft, spatial_merge=merge),
        shares(batches, rank, world_size, start_batch),
        config,
        rank=rank,
        start_step=start_batch,
    )
    loaded = iter(loader)
    with progress_bar(
        "sft", total - state.step, unit="step", show=progress and accelerator.is_main_process
    ) as bar:
        while not state.finished:
            began = time.monotonic()
            rate = state.set_learning_rate(optimizer)
            numbers: dict[str, float] = {}
            for _ in range(accumulation):
                batch: SFTBatch = next(loaded).batch.to(accelerator.device)
                hidden = model(batch.packed)
                loss = sft_loss(
                    hidden,
                    accelerator.unwrap_model(model).head_weight,
                    batch,
                    gen_id=processor.gen_id,
                    disc_id=processor.disc_id,
                    scale=config.scale,
                    generative=config.generative,
                    cross_entropy_weight=config.cross_entropy_weight,
                    mask_duplicates=config.mask_duplicates,
                    group=group,
                )
                accelerator.backward(loss.total / accumulation)
                for name in (
                    "total",
                    "gen",
                    "disc",
                    "ce_query",
                    "ce_target",
                    "gen_hit",
                    "disc_hit",
                ):
                    numbers[name] = (
                        numbers.get(name, 0.0) + float(getattr(loss, name).detach()) / accumulation
                    )
            norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            seconds = time.monotonic() - began
            bar.advance(loss=numbers["total"], disc=numbers["disc_hit"], gen=numbers["gen_hit"])
            if state.step % config.log_every == 0 or state.finished:
                state.log(
                    {
                        **numbers,
                        "learning_rate": rate,
                        "gradient_norm": float(norm),
                        "skipped_pairs": float(loader.skips.count * world_size),
                        "pairs_per_second": config.batch_size * accumulation / seconds,
                        "tokens_per_second": len(batch.packed.input_ids)
                        * accelerator.num_processes
                        * accumulation
                        / seconds,
                    }
                )
            if config.save_every and state.step % config.save_every == 0 and not state.finished:
                state.save_checkpoint()
    if summary := loader.skips.summary():
        print(summary, flush=True)
    return state.save_final(model)


@dataclass(frozen=True, slots=True)
class SFTEncoder:
    """(pair, where) -> both sides encoded."""

    processor: Processor
    max_length: int

    def __call__(self, pair: Pair, where: str) -> tuple[EncodedSide, EncodedSide]:
        query, target = (
            encode_side(side, self.processor, self.max_length, f"{where} ({pair.dataset}), {name}")
            for side, name in ((pair.query, "qry"), (pair.target, "pos"))
        )
        return query, target
