"""Stage one: supervised fine-tuning with two contrastive losses and next-token loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from umer1.data.records import Pair
from umer1.model.attention import packed_backend
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.progress import progress_bar
from umer1.training.batch_report import describe_batches
from umer1.training.collate import SFTBatch, collate_sft
from umer1.training.contrastive import Contrast
from umer1.training.encoded import EncodedPair, encode_pair
from umer1.training.grad_cache import SFTNumbers, SFTObjective, add_gradients, room_of
from umer1.training.lengths import estimated_lengths
from umer1.training.loading import PairLoader, group_pairs, shares
from umer1.training.loop import Run
from umer1.training.samples import show_samples
from umer1.training.settings import SFTConfig
from umer1.training.start import open_pairs, start
from umer1.training.trainable import choose_trainable
from umer1.training.wrapped import Trainee


def run(config: SFTConfig, *, progress: bool = True) -> Path:
    """Train; returns the directory of the finished model.

    A run that was killed goes on from its newest complete checkpoint and sees the batches it would have seen.
    """
    pairs = open_pairs(config, "sft")
    qwen, processor = start(config, pairs)
    prepare_model(qwen, config, processor)
    batches = group_pairs(pairs, config)
    accumulation = config.gradient_accumulation
    total = config.steps or batches.steps(config.epochs, accumulation)
    state = Run(config, total, processor, stage="sft", pairs=pairs)
    accelerator = state.accelerator
    trainee = Trainee(qwen, config.scale if config.learn_scale else None)
    model, optimizer = state.prepare(trainee)
    objective = sft_objective(config, processor, state.parallel.group)
    merge = qwen.config.vision.spatial_merge_size
    rank, start_batch = accelerator.process_index, state.step * accumulation
    lengths = estimated_lengths(pairs, processor)
    # the released mean of each process's mean depends on which sequences a process has
    balanced = config.global_token_mean
    described = describe_batches(
        batches,
        lengths,
        world_size=accelerator.num_processes,
        capacity=config.microbatch_tokens,
        balanced=balanced,
    )
    accelerator.print(described, flush=True)
    loader = PairLoader(
        pairs,
        SFTEncoder(processor, config),
        partial(collate_sft, spatial_merge=merge, microbatch_tokens=config.microbatch_tokens),
        shares(
            batches, rank, accelerator.num_processes, start_batch, lengths if balanced else None
        ),
        config,
        rank=rank,
        world_size=accelerator.num_processes,
        start_batch=start_batch,
    )
    ahead = iter(loader)
    accelerator.print(f"sft: attention of packed sequences by {_attention(config, accelerator)}")
    with progress_bar(
        "sft", total - state.step, unit="step", show=progress and accelerator.is_main_process
    ) as bar:
        while not state.finished:
            began = time.monotonic()
            rate = state.set_learning_rate(optimizer)
            sums, tokens = torch.zeros(len(SFTNumbers._fields), device=accelerator.device), 0
            numbers_of_pairs: list[int] = []
            room = 0  # of all passes
            for micro in range(accumulation):
                loaded = next(ahead)
                numbers_of_pairs += loaded.numbers
                batch: SFTBatch = loaded.batch.to(accelerator.device)
                last = micro == accumulation - 1
                passes = len(batch.parts)
                if objective.in_parts:
                    passes = state.parallel.largest(passes)
                found = add_gradients(
                    model,
                    batch,
                    objective,
                    state.parallel,
                    factor=1 / accumulation,
                    last=last,
                    passes=passes,
                )
                sums += torch.stack(found)
                tokens += batch.tokens
                room += room_of(batch, passes, config.microbatch_tokens)
            # one wait for the device in each step
            numbers = dict(zip(SFTNumbers._fields, (sums / accumulation).tolist()))
            norm = state.update(numbers, partial(_where, pairs, numbers_of_pairs))
            trainee.clamp_scale(state.parallel.limit)
            seconds = time.monotonic() - began
            numbers = _of_what_is_trained(numbers, config)
            hits = {kind: numbers[f"{kind}_hit"] for kind in ("disc", "gen") if kind in numbers}
            bar.advance(loss=numbers["total"], **hits)
            if state.step % config.log_every == 0 or state.finished:
                state.log(
                    {
                        **numbers,
                        "learning_rate": rate,
                        "gradient_norm": math.nan if norm is None else norm,
                        "skipped_pairs": float(loader.skips.count * accelerator.num_processes),
                        "pairs_per_second": config.batch_size * accumulation / seconds,
                        "real_token_share": tokens / room,
                        "tokens_per_second": tokens * accelerator.num_processes / seconds,
                    }
                )
            if state.monitor.samples_due(state.step - 1, state.step):
                show_samples(state, pairs, config)
            state.save_if_due()
    loader.close()
    return state.save_final()


def _of_what_is_trained(numbers: dict[str, float], config: SFTConfig) -> dict[str, float]:
    """Without those of a loss that is not there: their zeros would look like a failure to learn."""
    absent = set() if config.generative else {"gen", "gen_hit", "ce_query", "ce_target", "align"}
    absent |= set() if config.discriminative else {"disc", "disc_hit", "align"}
    return {name: value for name, value in numbers.items() if name not in absent}


def _where(pairs, numbers: list[int]) -> list[str]:
    return [pairs.where(number) for number in numbers]


def prepare_model(model: Qwen2VL, config: SFTConfig, processor: Processor) -> None:
    """What is trained, what is computed twice, and what the saved model will say it
    has learned: dimensions, aligned modes."""
    choose_trainable(model, config, (processor.gen_id, processor.disc_id))
    model.gradient_checkpointing = config.gradient_checkpointing
    width = model.config.hidden_size
    if too_wide := [size for size in config.matryoshka if size >= width]:
        raise ValueError(
            f"matryoshka: got dimension {too_wide[0]}, the model's vectors have {width}"
        )
    model.config = replace(model.config, aligned_modes=config.align_weight > 0)
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
        in_parts=config.microbatch_tokens > 0,
    )


def _attention(config: SFTConfig, accelerator) -> str:
    narrow = config.mixed_precision == "bf16"
    return packed_backend(accelerator.device, torch.bfloat16 if narrow else torch.float32)


@dataclass(frozen=True, slots=True)
class SFTEncoder:
    """(pair, where) -> EncodedPair."""

    processor: Processor
    config: SFTConfig

    def __call__(self, pair: Pair, where: str) -> EncodedPair:
        return encode_pair(
            pair,
            self.processor,
            self.config.max_length,
            f"{where} ({pair.dataset})",
            generative=self.config.generative,
            hard_negatives=self.config.hard_negatives,
        )
