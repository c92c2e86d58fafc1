"""What a trainer is given to do: pairs of sequences with media, or prompts and the rollouts it will write.

Four kinds of pairs in turn: picture (256 visual tokens) -> text, text -> picture (256), picture (64) -> text, text ->
picture (64); in RL the first and the third. A side of text alone has the one-token white picture of the released SFT data. Around the media stand the
chat's head, 16 tokens of text, `<disc_emb>` and an instruction with a literal `<gen_emb>` in it, 97 tokens in all.
Responses are log-normal, sigma 0.5, with mean 96 where the released data's have about 400: the head and the decoder then
see shorter responses beside the same pictures, and a step fits into seconds on two cores.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from bench.engine.shapes import config, prompt, random_model, special_id
from bench.engine.workload import MEAN_LENGTH, lognormal_lengths
from umer1.model import ModelConfig, Qwen2VL, Sequence

KINDS = (
    ("image-256", "image-1"),
    ("image-1", "image-256"),
    ("image-64", "image-1"),
    ("image-1", "image-64"),
)
RL_KINDS = (
    ("image-256", "image-1"),
    ("image-64", "image-1"),
)  # or a modality would decide every rank
TINY_KINDS = (("image-4", "image-1"), ("image-1", "image-4"))
SIDES = ("query", "target")
# from the end of the prompt: where the instruction names <gen_emb>
LITERAL_GEN = 6
SCALE = 50.0


@dataclass
class TrainingWorkload:
    """`rollouts` 0: pairs with their responses (SFT); otherwise prompts, and so many responses for each (RL).

    Models and sequences are made when they are first needed, and kept as long as this.
    """

    size: str
    pairs: int
    rollouts: int = 0
    kinds: tuple[tuple[str, str], ...] = KINDS
    dtype: torch.dtype = torch.bfloat16
    mean_length: int = MEAN_LENGTH
    checkpointing: bool = True
    device: str = "cpu"

    @cached_property
    def config(self) -> ModelConfig:
        return config(self.size)

    def id(self, name: str) -> int:
        return special_id(self.config, name)

    @cached_property
    def prompts(self) -> dict[str, list[Sequence]]:
        """One per pair and side."""
        found: dict[str, list[Sequence]] = {side: [] for side in SIDES}
        for number in range(self.pairs):
            for side, kind in zip(SIDES, self.kinds[number % len(self.kinds)]):
                seed = 2 * number + SIDES.index(side)
                sequence = prompt(self.config, kind, seed)
                sequence.input_ids[-LITERAL_GEN] = self.id("gen")
                found[side].append(sequence)
        return found

    @cached_property
    def responses(self) -> dict[str, list[list[int]]]:
        """Tokens per row, a prompt's rows side by side; the last two are `<gen_emb>` and the end of the turn."""
        rows = self.pairs * max(1, self.rollouts)
        lengths = lognormal_lengths(2 * rows, self.mean_length)
        chance = random.Random(1)
        ends, words = [self.id("gen"), self.id("eos")], self.config.vocab_size - 16
        texts = [[chance.randrange(words) for _ in range(length - 2)] + ends for length in lengths]
        return {"query": texts[:rows], "target": texts[rows:]}

    def sequences(self, side: str) -> list[Sequence]:
        """Prompt and response of each row."""
        repeated = [each for each in self.prompts[side] for _ in range(max(1, self.rollouts))]
        return [each.extend(ids) for each, ids in zip(repeated, self.responses[side])]

    @cached_property
    def model(self) -> Qwen2VL:
        model = random_model(self.config, self.dtype).to(self.device).train()
        model.gradient_checkpointing = self.checkpointing
        if not self.rollouts:  # as released: the tower is frozen in SFT, its merger is not
            model.vision.requires_grad_(False)
            model.vision.merger.requires_grad_(True)
        return model

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return still_adamw(self.model)

    @cached_property
    def transformers(self) -> nn.Module:
        """transformers' own model with the same weights, its SDPA attention, non-reentrant checkpointing as released."""
        from bench.engine.peers import as_transformers

        model = as_transformers(random_model(self.config, self.dtype)).to(self.device).train()
        if self.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if not self.rollouts:
            model.model.visual.requires_grad_(False)
            model.model.visual.merger.requires_grad_(True)
        return model

    @cached_property
    def transformers_optimizer(self) -> torch.optim.Optimizer:
        return still_adamw(self.transformers)

    @cached_property
    def transformers_reference(self) -> nn.Module:
        return copy.deepcopy(self.transformers).requires_grad_(False).eval()

    def make_transformers(self) -> None:
        """All that the first step would make: then it takes as long as the others."""
        self.transformers_optimizer  # noqa: B018
        if self.rollouts:
            self.transformers_reference  # noqa: B018

    def wide_transformers(self) -> nn.Module:
        """A float32 copy of it."""
        return copy.deepcopy(self.transformers).float().eval()

    @property
    def tokens(self) -> int:
        """Of all sequences, prompts included, without padding."""
        return sum(len(each) for side in SIDES for each in self.sequences(side))

    def sizes(self) -> dict[str, int | str]:
        found = {"model": self.size, "pairs": self.pairs, "tokens": self.tokens}
        return found | ({"rollouts": self.rollouts} if self.rollouts else {})


def still_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with rate 0: all its work, and every step finds the same weights. Gradients exist from the start."""
    trained = [each for each in model.parameters() if each.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
    optimizer.step()  # its states exist too: they are no part of what a step takes
    return optimizer


def update(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Clip, step, clear; the norm of the gradient before clipping. The gradients' memory stays."""
    norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm
