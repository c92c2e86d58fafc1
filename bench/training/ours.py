"""Our training steps on a synthetic workload: what `umer1.training` does between two batches, with its own functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial

import torch
from torch import Tensor

import umer1.engine.slots as slots
import umer1_kernels as kernels
from bench.engine.ours import script_table
from bench.peers.released_rl import workload_text
from bench.training.workload import SCALE, SIDES, TrainingWorkload, update
from umer1.engine.native import NativeEngine
from umer1.engine.requests import prompt_seed
from umer1.model import Sequence
from umer1.training.alone import Alone
from umer1.training.collate import SFTBatch, collate_sft
from umer1.training.contrastive import Contrast
from umer1.training.encoded import IGNORED, EncodedPair, EncodedSide, shift
from umer1.training.grad_cache import SFTObjective, add_gradients
from umer1.training.policy_forward import Objective
from umer1.training.policy_update import learn, make_parts
from umer1.training.reference_policy import ReferencePolicy
from umer1.training.rl_prompts import PromptPair
from umer1.training.rollout_pack import can_share
from umer1.training.rollouts import roll_out
from umer1.training.settings import RLConfig
from umer1.training.wrapped import Trainee

NORMALIZER = 2048.0


class OurSFT:
    """Steps on one batch of pairs; `microbatch_tokens`: GradCache's, 0 for none."""

    def __init__(self, workload: TrainingWorkload, microbatch_tokens: int = 0):
        self.workload, self.microbatch_tokens = workload, microbatch_tokens

    @cached_property
    def batch(self) -> SFTBatch:
        sides = [_encoded(self.workload, side) for side in SIDES]
        pairs = [EncodedPair(query, target) for query, target in zip(*sides)]
        batch = collate_sft(pairs, microbatch_tokens=self.microbatch_tokens)
        for part in batch.parts:
            part.packed = part.packed.to(self.workload.model.device, self.workload.dtype)
        return batch.to(self.workload.model.device)

    def step(self) -> Tensor:
        """Forward, backward, clipping and AdamW: float32 [5], gen, disc, both cross-entropies, norm of the gradient."""
        workload = self.workload
        run = Alone(partial(update, workload.optimizer), workload.model.device)
        objective = SFTObjective(Contrast(SCALE), workload.id("gen"), workload.id("disc"))
        found = add_gradients(Trainee(workload.model), self.batch, objective, run)
        numbers = [found.gen, found.disc, found.ce_query, found.ce_target]
        return torch.stack([*map(_single, numbers), _single(run.update())])


class OurRL:
    """Steps on one batch of prompts, both sides rolled out by the engine."""

    def __init__(self, workload: TrainingWorkload):
        self.workload = workload
        longest = max(len(each) for side in SIDES for each in workload.responses[side])
        self.config = RLConfig(
            batch_size=workload.pairs,
            generations=workload.rollouts,
            max_new_tokens=longest,
            rollout_slots=min(128, 2 * workload.pairs * workload.rollouts),
            normalizer=NORMALIZER,
        )
        self.objective = Objective(
            completions=2 * workload.pairs * workload.rollouts,
            normalizer=NORMALIZER,
            per_length=False,
            clip=self.config.clip,
            beta=self.config.beta,
            temperature=self.config.temperature,
        )
        self.prompts = [
            PromptPair(place, query, target, f"pair {place}")
            for place, (query, target) in enumerate(
                zip(*(workload.prompts[side] for side in SIDES))
            )
        ]

    @cached_property
    def reference(self) -> ReferencePolicy:
        return ReferencePolicy(self.workload.model, self.config, self.workload.model.device)

    def describe(self) -> str:
        model = self.workload.model
        shared = can_share(model.device, model.dtype)
        prompts = "once for all its rollouts" if shared else "once per rollout"
        return f"rollouts by the engine; learning on packed sequences, each prompt {prompts}"

    def step(self) -> Tensor:
        """Rollouts, rewards, update: float32 [4 N G + 2], gaps, embedding rewards, loss, norm of the gradient."""
        workload = self.workload
        model, device = workload.model, workload.model.device
        processor = _Processor(workload)
        state = Alone(partial(update, workload.optimizer), device, processor)
        with scripted_rollouts(workload) as scores:
            rolled = roll_out(model, processor, [self.prompts], self.config, seed=0)
        merge = model.config.vision.spatial_merge_size
        share = can_share(device, model.dtype)
        parts = make_parts(rolled.groups, state, self.config, share=share, spatial_merge=merge)
        for part in parts.packs:
            part.packed = part.packed.to(device, model.dtype)
        found = learn(
            Trainee(model), parts, self.reference, state, self.config, self.objective,
            before_update=lambda: None, where=lambda: [],
        )  # fmt: skip
        numbers = torch.stack([_single(found["loss"]), _single(found["gradient_norm"])])
        return torch.cat([*scores, numbers])


@contextmanager
def scripted_rollouts(workload: TrainingWorkload) -> Iterator[list[Tensor]]:
    """The engine writes the workload's responses: its sampler is called as always, with a token forced in every row.

    Gives a list that fills with the gaps and the embedding rewards, float32 [2 N G] each, queries first.
    """
    scores: list[Tensor] = []
    waiting = {side: list(range(workload.pairs)) for side in SIDES}
    table: dict[int, list[int]] = {}
    sample, submit, reward = slots.sample_tokens, NativeEngine.submit, kernels.group_reward

    def remember(self, prompts, sampling, *, samples=1):
        prompts = list(prompts)
        for prompt in prompts:
            side, number = _find(workload, waiting, prompt.sequence)
            first = number * workload.rollouts
            for row in range(samples):
                seed = prompt_seed(prompt, sampling, row)
                # 64 bits without a sign
                table[seed - (seed >> 63 << 64)] = workload.responses[side][first + row]
        seeds = torch.tensor(list(table))
        order = seeds.argsort()
        remember.seeds = seeds[order].to(workload.model.device)
        remember.tokens = script_table(list(table.values()))[order].to(workload.model.device)
        return submit(self, prompts, sampling, samples=samples)

    def forced(logits, seed, step, *, forced=None, **settings):
        row = torch.searchsorted(remember.seeds, seed.contiguous()).clamp_max(
            len(remember.seeds) - 1
        )
        token = remember.tokens[row, step.clamp_max(remember.tokens.shape[1] - 1)]
        return sample(logits, seed, step, forced=token, **settings)

    def noted(*vectors, **settings):
        found = reward(*vectors, **settings)
        both = torch.stack([found.query_reward, found.target_reward])
        scores.extend(_single(each).flatten() for each in (found.gap, both))
        return found

    slots.sample_tokens, NativeEngine.submit, kernels.group_reward = forced, remember, noted
    try:
        yield scores
    finally:
        slots.sample_tokens, NativeEngine.submit, kernels.group_reward = sample, submit, reward


class _Processor:
    """What rollouts want of a processor, for random ids that no tokenizer knows."""

    def __init__(self, workload: TrainingWorkload):
        self.gen_id, self.disc_id, self.eos_id = map(workload.id, ("gen", "disc", "eos"))

    def disc_position(self, sequence: Sequence) -> int:
        return int((sequence.input_ids == self.disc_id).nonzero()[-1])

    def decode(self, ids) -> str:
        return workload_text(ids)


def _encoded(workload: TrainingWorkload, side: str) -> list[EncodedSide]:
    found = []
    sequences, responses = workload.sequences(side), workload.responses[side]
    for number, (sequence, response) in enumerate(zip(sequences, responses)):
        ids, start = sequence.input_ids, len(sequence) - len(response)
        labels = ids.clone()
        labels[:start] = IGNORED
        generated = ids == workload.id("gen")
        generated[:start] = False
        wanted = (shift(labels) != IGNORED) | generated | (ids == workload.id("disc"))
        key, keep = (side, number), wanted.nonzero()[:, 0]
        found.append(EncodedSide(key, sequence, labels, start, keep))
    return found


def _find(workload: TrainingWorkload, waiting: dict[str, list[int]], sequence: Sequence):
    """Side and number of the prompt; each is given out once."""
    for side, numbers in waiting.items():
        for number in numbers:
            if torch.equal(workload.prompts[side][number].input_ids, sequence.input_ids):
                numbers.remove(number)
                return side, number
    raise ValueError("a prompt was rolled out that is not of this workload, or twice")


def _single(value) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).detach().cpu()
