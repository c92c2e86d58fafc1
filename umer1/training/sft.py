"""Stage one: supervised fine-tuning with two contrastive losses and next-token loss."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from umer1.data.records import Pair
from umer1.processor import Processor
from umer1.progress import progress_bar
from umer1.training.batching import GroupedBatches, rank_slice
from umer1.training.collate import EncodedSide, SFTBatch, collate_sft, describe, encode_side
from umer1.training.loop import Run, make_optimizer
from umer1.training.objectives import sft_loss
from umer1.training.samples import fixed_pairs, greedy_rows
from umer1.training.settings import SFTConfig
from umer1.training.start import load_pairs, start


def run(config: SFTConfig, *, progress: bool = True) -> Path:
    """Train; returns the directory of the finished model.

    A run that was killed goes on from its newest complete checkpoint and sees the batches it would have seen.
    """
    pairs = load_pairs(config, "sft")
    model, processor = start(config, pairs)
    batches = GroupedBatches(
        [pair.dataset for pair in pairs], config.batch_size, config.group_size, config.seed
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
    loader = DataLoader(
        SFTDataset(pairs, processor, config),
        num_workers=config.workers,
        batch_sampler=_shares(batches, state.step * accumulation, accelerator),
        collate_fn=lambda encoded: collate_sft(encoded, merge),
    )
    batch_source = iter(loader)
    with progress_bar(
        "sft", total - state.step, unit="step", show=progress and accelerator.is_main_process
    ) as bar:
        while not state.finished:
            began = time.monotonic()
            rate = state.set_learning_rate(optimizer)
            numbers: dict[str, float] = {}
            for _ in range(accumulation):
                batch: SFTBatch = next(batch_source).to(accelerator.device)
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
                        "pairs_per_second": config.batch_size * accumulation / seconds,
                        "tokens_per_second": len(batch.packed.input_ids)
                        * accelerator.num_processes
                        * accumulation
                        / seconds,
                    }
                )
            if state.monitor.samples_due(state.step):
                chosen = fixed_pairs([pair.dataset for pair in pairs], config.samples_count)
                rows = greedy_rows(
                    accelerator.unwrap_model(model),
                    processor,
                    [pairs[index] for index in chosen],
                    config.max_length,
                )
                state.monitor.samples(state.step, rows if accelerator.is_main_process else [])
            if config.save_every and state.step % config.save_every == 0 and not state.finished:
                state.save_checkpoint()
    return state.save_final(model)


class SFTDataset(Dataset):
    """Encoded pairs by number."""

    def __init__(self, pairs: list[Pair], processor: Processor, config: SFTConfig):
        self.pairs, self.processor, self.config = pairs, processor, config
        self._kept: dict[int, tuple[EncodedSide, EncodedSide]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[EncodedSide, EncodedSide]:
        if number in self._kept:
            return self._kept[number]
        pair = self.pairs[number]
        encoded = tuple(
            encode_side(side, self.processor, self.config.max_length, describe(pair, number, name))
            for side, name in ((pair.query, "qry"), (pair.target, "pos"))
        )
        if self.config.cache_encoded:
            self._kept[number] = encoded
        return encoded


def _shares(batches: GroupedBatches, start_batch: int, accelerator):
    for batch in batches.batches(start_batch):
        yield rank_slice(batch, accelerator.process_index, accelerator.num_processes)
