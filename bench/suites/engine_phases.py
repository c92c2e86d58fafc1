"""The parts that a generation is composed of: tower and prefill, of one prompt; on a GPU of many together too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.case import OURS, Case, Problem, Variant
from bench.engine import ours
from bench.engine.flops import prefill_flop, vision_flop
from bench.engine.workload import Workload
from umer1.engine import Sampling
from umer1.engine.hf_inputs import model_inputs

# per image, per prompt with that image's number of tokens as text, and both
PARTS = ("vision", "prefill", "prompts")


@dataclass(frozen=True, kw_only=True)
class EnginePhase(Case):
    suite = "engine_phases"
    weighed = counted = False
    size: str
    part: str
    visual: int
    prompts: int = 1

    def sizes(self):
        return {"model": self.size, "prompts": self.prompts, "visual_tokens": self.visual,
                "prompt_tokens": self._tokens()}  # fmt: skip

    def _tokens(self) -> int:
        return len(Workload(self.size, (f"image-{self.visual}",), 1).requests[0].sequence)

    def small(self):
        return replace(self, size="tiny", visual=4)

    def build(self, device):
        kind = f"text-{self._tokens() - 81}" if self.part == "prefill" else f"image-{self.visual}"
        workload = Workload(self.size, (kind,), self.prompts, device=device.type)
        return Problem({"workload": workload})

    def variants(self, device):
        if self.part == "vision":
            return [
                Variant(OURS, OURS, _our_tower, checked=False),
                Variant("transformers", "transformers", _their_tower, checked=False),
            ]
        return [
            Variant(OURS, OURS, _our_prefill, checked=False),
            Variant("transformers", "transformers", _their_prefill, checked=False),
        ]

    def flop(self, problem):
        workload = problem.inputs["workload"]
        if workload.device == "cpu":
            return None
        sequences = [request.sequence for request in workload.requests]
        tower = sum(vision_flop(workload.model, each) for each in sequences)
        if self.part == "vision":
            return tower
        return tower + sum(prefill_flop(workload.model, each) for each in sequences)

    def truth(self, problem):
        return {}

    def explain(self, problem):
        return problem.inputs["workload"].describe()


def _our_tower(workload: Workload) -> Tensor:
    sequence = workload.requests[0].sequence
    workload.packed  # noqa: B018
    patches = sequence.pixel_values.to(workload.device, workload.dtype)
    return workload.model.vision(patches, sequence.grid_thw)


def _their_tower(workload: Workload) -> Tensor:
    sequence = workload.requests[0].sequence
    model, device = workload.transformers.model, workload.device
    patches, grid = sequence.pixel_values.to(device), sequence.grid_thw.to(device)
    return model.get_image_features(patches, grid).pooler_output[0]


def _our_prefill(workload: Workload) -> Tensor:
    """Reads the prompts, their keys and values kept, and samples one token each."""
    engine = ours.native(workload, rows=len(workload.requests), prefill_tokens=1 << 16)
    with ours.afresh(engine, workload):
        finished = list(engine.submit(workload.requests, Sampling(1, stop="eos")))
    return finished[0].rollout.vector


def _their_prefill(workload: Workload) -> Tensor:
    model = workload.transformers
    sequences = [request.sequence for request in workload.requests]
    inputs = model_inputs(model, sequences, pad_id=workload.special.eos_id)
    return model(**inputs, use_cache=True, logits_to_keep=1).logits.argmax(-1)


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        return []
    common = dict(dtype=torch.bfloat16, size="2b")
    found = [
        EnginePhase(name=f"{part}-{visual}-2b-bf16", part=part, visual=visual, **common)
        for part in ("vision", "prefill")
        for visual in (64, 256)
    ]
    if device == "cuda":
        many = EnginePhase(
            name="prompts-32x256-2b-bf16", part="prompts", visual=256, prompts=32, **common
        )
        found = [many, *found]
    return found
