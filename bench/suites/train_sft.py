"""An SFT step, whole: ours beside the released trainer's on transformers, at its best number of rows per forward."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.case import Case, Expected
from bench.peers import released_sft
from bench.training.flops import sft_flop
from bench.training.ours import OurSFT
from bench.training.step_case import RELEASED, TrainStep
from bench.training.workload import TINY_KINDS, TrainingWorkload

# of the four losses and the gradient's norm; bfloat16 rounds the released contrastive logits, 16 to 64, to 1/8 and 1/4
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}


@dataclass(frozen=True, kw_only=True)
class TrainSFT(TrainStep):
    suite = "train_sft"
    tolerances = TOLERANCE
    make_ours = OurSFT
    released = staticmethod(released_sft.step)
    flop_of = staticmethod(sft_flop)
    released_note = "padded forwards of {rows} sequences, full logits"

    def small(self):
        return replace(
            self, workload=replace(self.workload, size="tiny", kinds=TINY_KINDS, pairs=2)
        )

    def truth(self, problem):
        """The released formulas in float32, forward alone: without the gradient's norm."""
        workload = problem.inputs["workload"]
        workload.make_transformers()
        with torch.no_grad():
            losses = released_sft.losses(workload, workload.wide_transformers(), 1)
        return {"output": Expected(slice(0, 4), losses.double().cpu())}

    def explain(self, problem):
        batch = problem.inputs["ours"].batch
        return f"packed, {len(batch.parts)} forward of {batch.tokens} tokens, no padding"


@dataclass(frozen=True, kw_only=True)
class TrainSFTMemory(TrainSFT):
    """Peak of a step above weights, gradients and optimizer states, which everybody holds alike."""

    timed = counted = False
    weighed = True

    @property
    def baseline(self):
        return f"{RELEASED}-b{self.rows[0]}"

    def truth(self, problem):
        return {}

    def variants(self, device):
        return [replace(variant, checked=False) for variant in super().variants(device)]


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        workload = TrainingWorkload("tiny", 4, kinds=TINY_KINDS, dtype=torch.float32)
        return [
            TrainSFT(name="pairs-4-tiny-fp32", dtype=torch.float32, workload=workload, rows=(4,))
        ]
    if device == "cuda":
        shared = dict(dtype=torch.bfloat16, workload=TrainingWorkload("2b", 16, mean_length=400))
        return [
            TrainSFT(name="pairs-16-2b-bf16", rows=(4, 8, 16), **shared),
            TrainSFTMemory(name="memory-16-2b-bf16", rows=(4,), **shared),
        ]
    workload = TrainingWorkload("0.1b", 8)
    shared = dict(dtype=torch.bfloat16, workload=workload)
    return [
        TrainSFT(name="pairs-8-0.1b-bf16", rows=(2, 4, 8), **shared),
        TrainSFTMemory(name="memory-8-0.1b-bf16", rows=(4,), **shared),
    ]
