"""Stage one: supervised fine-tuning with two contrastive losses and next-token loss."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from umer1.data.records import Pair
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.progress import progress_bar
from umer1.training.batching import GroupedBatches, rank_slice
from umer1.training.collate import EncodedPair, SFTBatch, collate_sft, describe, encode_pair
from umer1.training.contrastive import Contrast
from umer1.training.grad_cache import SFTNumbers, SFTObjective, add_gradients
from umer1.training.loop import Run
from umer1.training.samples import show_samples
from umer1.training.settings import SFTConfig
from umer1.training.start import load_pairs, start
from umer1.training.trainable import choose_trainable
from umer1.training.wrapped import Trainee


def run(config: SFTConfig, *, progress: bool = True) -> Path:
    """Train; returns the directory of the finished model.

    A run that was killed goes on from its newest complete checkpoint and sees the batches it would have seen.
    """
    pairs = load_pairs(config, "sft")
    qwen, processor = start(config, pairs)
    prepare_model(qwen, config)
    batches = GroupedBatches(
        [pair.dataset for pair in pairs], config.batch_size, config.group_size, config.seed
    )
    accumulation = config.gradient_accumulation
    total = config.steps or max(
        1, math.floor(config.epochs * batches.batches_per_epoch / accumulation)
    )
    state = Run(config, total, processor, stage="sft", pairs=pairs)
    accelerator = state.accelerator
    trainee = Trainee(qwen, config.scale if config.learn_scale else None)
    model, optimizer = state.prepare(trainee)
    objective = sft_objective(config, processor, state.parallel.group)
    merge = qwen.config.vision.spatial_merge_size
    loader = DataLoader(
        SFTDataset(pairs, processor, config),
        num_workers=config.workers,
        batch_sampler=_shares(batches, state.step * accumulation, accelerator),
        generator=torch.Generator(),  # its own: a resumed run has drawn from the global one what it had
        collate_fn=lambda encoded: collate_sft(
            encoded, merge, microbatch_tokens=config.microbatch_tokens
        ),
    )
    batch_source = iter(loader)
    with progress_bar(
        "sft", total - state.step, unit="step", show=progress and accelerator.is_main_process
    ) as bar:
        while not state.finished:
            began = time.monotonic()
            rate = state.set_learning_rate(optimizer)
            sums, tokens = torch.zeros(len(SFTNumbers._fields), device=accelerator.device), 0
            room = 0  # of the passes; without microbatches a pass is as large as its tokens
            for micro in range(accumulation):
                batch: SFTBatch = next(batch_source).to(accelerator.device)
                last = micro == accumulation - 1
                found = add_gradients(
                    model, batch, objective, state.parallel, factor=1 / accumulation, last=last
                )
                sums += torch.stack(found)
                tokens += batch.tokens
                room += sum(
                    max(sum(part.packed.lengths), config.microbatch_tokens) for part in batch.parts
                )
            # one wait for the device in each step
            numbers = dict(zip(SFTNumbers._fields, (sums / accumulation).tolist()))
            norm = state.update(numbers)
            trainee.clamp_scale()
            seconds = time.monotonic() - began
            bar.advance(loss=numbers["total"], disc=numbers["disc_hit"], gen=numbers["gen_hit"])
            if state.step % config.log_every == 0 or state.finished:
                state.log(
                    {
                        **numbers,
                        "learning_rate": rate,
                        "gradient_norm": math.nan if norm is None else norm,
                        "pairs_per_second": config.batch_size * accumulation / seconds,
                        "real_token_share": tokens / room,
                        "tokens_per_second": tokens * accelerator.num_processes / seconds,
                    }
                )
            if state.monitor.samples_due(state.step - 1, state.step):
                show_samples(state, pairs, config)
            state.save_if_due()
    return state.save_final()


def prepare_model(model: Qwen2VL, config: SFTConfig) -> None:
    """What is trained, what is computed twice, which dimensions the saved model will say it has learned."""
    choose_trainable(model, config)
    model.gradient_checkpointing = config.gradient_checkpointing
    width = model.config.hidden_size
    if too_wide := [size for size in config.matryoshka if size >= width]:
        raise ValueError(
            f"matryoshka: got dimension {too_wide[0]}, the model's vectors have {width}"
        )
    if config.matryoshka:
        sizes = (*sorted(config.matryoshka), width)
        model.config = replace(model.config, matryoshka_dimensions=sizes)


def sft_objective(config: SFTConfig, processor: Processor, group=None) -> SFTObjective:
    """The loss that a config asks for."""
    return SFTObjective(
        Contrast.of(config, group),
        processor.gen_id,
        processor.disc_id,
        generative=config.generative,
        cross_entropy_weight=config.cross_entropy_weight,
        global_token_mean=config.global_token_mean,
    )


class SFTDataset(Dataset):
    """Encoded pairs by number."""

    def __init__(self, pairs: list[Pair], processor: Processor, config: SFTConfig):
        self.pairs, self.processor, self.config = pairs, processor, config
        self._kept: dict[int, EncodedPair] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> EncodedPair:
        if number in self._kept:
            return self._kept[number]
        pair, config = self.pairs[number], self.config
        encoded = encode_pair(
            pair,
            self.processor,
            config.max_length,
            describe(pair, number),
            generative=config.generative,
            hard_negatives=config.hard_negatives,
        )
        if config.cache_encoded:
            self._kept[number] = encoded
        return encoded


def _shares(batches: GroupedBatches, start_batch: int, accelerator):
    for batch in batches.batches(start_batch):
        yield rank_slice(batch, accelerator.process_index, accelerator.num_processes)
