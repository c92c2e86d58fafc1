"""Stage one: supervised fine-tuning with two contrastive losses and next-token loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from umer1.data.records import Pair
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.progress import progress_bar
from umer1.training.batching import GroupedBatches, rank_slice
from umer1.training.collate import EncodedSide, SFTBatch, collate_sft, describe, encode_side
from umer1.training.loop import Run
from umer1.training.objectives import SFTLoss, sft_loss
from umer1.training.parallel import use_head
from umer1.training.settings import SFTConfig
from umer1.training.start import load_pairs, start
from umer1.training.wrapped import Trainee


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
    state = Run(config, total, processor, stage="sft", pairs=pairs)
    accelerator = state.accelerator
    model.gradient_checkpointing = config.gradient_checkpointing
    if config.freeze_vision:
        model.vision.requires_grad_(False)
        model.vision.merger.requires_grad_(True)
    merge = model.config.vision.spatial_merge_size
    model, optimizer = state.prepare(Trainee(model))
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
            for micro in range(accumulation):
                batch: SFTBatch = next(batch_source).to(accelerator.device)
                with state.part(last=micro == accumulation - 1):
                    loss = SFTLoss(*model(Forward(batch, processor, config, state.parallel.group)))
                    state.backward(loss.total / accumulation)
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
            norm = state.update(numbers)
            seconds = time.monotonic() - began
            bar.advance(loss=numbers["total"], disc=numbers["disc_hit"], gen=numbers["gen_hit"])
            if state.step % config.log_every == 0 or state.finished:
                state.log(
                    {
                        **numbers,
                        "learning_rate": rate,
                        "gradient_norm": math.nan if norm is None else norm,
                        "pairs_per_second": config.batch_size * accumulation / seconds,
                        "tokens_per_second": len(batch.packed.input_ids)
                        * accelerator.num_processes
                        * accumulation
                        / seconds,
                    }
                )
            state.save_if_due()
    return state.save_final()


@dataclass(slots=True)
class Forward:
    """The losses of one batch, as the wrapped forward computes them."""

    batch: SFTBatch
    processor: Processor
    config: SFTConfig
    group: object

    def __call__(self, model: Qwen2VL) -> tuple[torch.Tensor, ...]:
        config = self.config
        loss = sft_loss(
            model(self.batch.packed),
            use_head(model),
            self.batch,
            gen_id=self.processor.gen_id,
            disc_id=self.processor.disc_id,
            scale=config.scale,
            generative=config.generative,
            cross_entropy_weight=config.cross_entropy_weight,
            mask_duplicates=config.mask_duplicates,
            group=self.group,
        )
        return tuple(getattr(loss, name) for name in loss.__dataclass_fields__)


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
