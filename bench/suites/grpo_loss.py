"""grpo_loss: clipped policy gradient with a k3 penalty; the end of every sequence of 256 tokens is its completion."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

import umer1_kernels as kernels
from bench import data
from bench.case import Case, Variant
from bench.peers import package
from bench.suites.linear import HEADS, QUICK_HEAD, Linear, wide
from bench.suites.ours import describe

CLIP = (0.2, 0.28)
BETA = 0.04
COMPLETION_LIMIT = 2048.0  # the released divisor of every sequence's token sum


def grpo_terms(logprob, advantage, old_logprob, ref_logprob) -> Tensor:
    """[T]: -min(r A, clip(r) A) + beta (exp(d) - d - 1), d = ref - log p."""
    ratio = torch.exp(logprob - old_logprob)
    clipped = ratio.clamp(1 - CLIP[0], 1 + CLIP[1])
    difference = ref_logprob - logprob
    penalty = torch.exp(difference) - difference - 1
    return BETA * penalty - torch.minimum(ratio * advantage, clipped * advantage)


@dataclass(frozen=True, kw_only=True)
class GRPO(Linear):
    """Off-policy by a little, so that some tokens are clipped; one advantage per sequence."""

    suite = "grpo_loss"

    @property
    def sequences(self) -> int:
        return max(1, self.tokens // data.SEQUENCE)

    @property
    def normalizer(self) -> float:
        return COMPLETION_LIMIT * self.sequences

    def row_inputs(self, hidden, weight, ids):
        generator = torch.Generator(ids.device).manual_seed(2)

        def noise(count: int) -> Tensor:
            return torch.randn(count, generator=generator, device=ids.device)

        logprob = data.approximate_logprob(hidden, weight, ids)
        length = self.tokens // self.sequences
        return {
            "ids": ids,
            "advantage": noise(self.sequences).repeat_interleave(length),
            "mask": self.mask(ids.device),
            "old_logprob": logprob + 0.2 * noise(self.tokens),
            "ref_logprob": logprob + 0.2 * noise(self.tokens),
        }

    def ours(self, device):
        options = {"clip": CLIP, "beta": BETA, "normalizer": self.normalizer}
        options |= self.options(device)

        def loss(hidden, weight, ids, advantage, mask, old_logprob, ref_logprob) -> Tensor:
            return kernels.grpo_loss(
                hidden, weight, ids, advantage,
                mask=mask, old_logprob=old_logprob, ref_logprob=ref_logprob, **options,
            ).loss  # fmt: skip

        return loss

    def peer(self, negative_logprob):
        def loss(hidden, weight, ids, advantage, mask, old_logprob, ref_logprob) -> Tensor:
            logprob = -wide(negative_logprob(hidden, weight, ids))
            terms = grpo_terms(logprob, advantage, old_logprob, ref_logprob)
            return torch.where(mask, terms, 0.0).sum() / self.normalizer

        return loss

    def compacted(self, peer):
        def loss(hidden, weight, ids, advantage, mask, old_logprob, ref_logprob) -> Tensor:
            live = mask.nonzero().squeeze(1)
            rows = [tensor[live] for tensor in (ids, advantage, mask, old_logprob, ref_logprob)]
            return peer(hidden[live], weight, *rows)

        return loss

    def others(self, device):
        if device.type != "cuda":
            return []
        loss_class, reason = package("liger_kernel.chunked_loss", "LigerFusedLinearGRPOLoss")

        @functools.cache
        def criterion():
            return loss_class()(
                beta=BETA,
                epsilon_low=CLIP[0],
                epsilon_high=CLIP[1],
                loss_type="dr_grpo",
                max_completion_length=COMPLETION_LIMIT,
            )

        def loss(hidden, weight, ids, advantage, mask, old_logprob, ref_logprob) -> Tensor:
            def by_sequence(tensor: Tensor) -> Tensor:
                return tensor.view(self.sequences, -1, *tensor.shape[1:])

            return criterion()(
                by_sequence(hidden),
                weight,
                by_sequence(ids),
                by_sequence(mask).long(),
                by_sequence(advantage)[:, 0],
                ref_per_token_logps=by_sequence(ref_logprob),
                old_per_token_logps=by_sequence(old_logprob),
            )[0]

        return [Variant("liger", "liger", loss, "LigerFusedLinearGRPOLoss", reason)]

    def ids(self, problem):
        return problem.inputs["ids"]

    def rows_that_count(self, problem):
        return problem.inputs["mask"]

    def row_loss(self, problem, logprob):
        live = self.rows_that_count(problem)
        rows = [
            problem.inputs[name][live].double()
            for name in ("advantage", "old_logprob", "ref_logprob")
        ]
        return grpo_terms(logprob, *rows).sum() / self.normalizer

    def explain(self, problem):
        hidden, weight, ids, advantage, mask = list(problem.inputs.values())[:5]
        options = self.options(hidden.device)
        return describe(kernels.grpo_loss, hidden, weight, ids, advantage, mask=mask, **options)


def cases(device: str, quick: bool) -> list[Case]:
    shared = {"dtype": torch.bfloat16, "live": 0.4}
    if quick:
        return [GRPO(name="t512-completion-40-bf16", tokens=512, **QUICK_HEAD, **shared)]
    tokens, heads = (8192, ("2b", "7b")) if device == "cuda" else (2048, ("2b",))
    peers = ("eager", "compile", "eager-compacted", "compile-compacted", "liger")
    return [
        GRPO(
            name=f"t{tokens}-{head}-completion-40-bf16",
            tokens=tokens,
            peers=peers if device == "cuda" else None,
            **HEADS[head],
            **shared,
        )
        for head in heads
    ]
