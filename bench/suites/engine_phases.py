"""The parts that a generation is composed of where the whole would take hours: tower and prefill, per prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.case import OURS, Case, Problem, Variant
from bench.engine import ours
from bench.engine.workload import Workload
from umer1.engine import Sampling
from umer1.engine.hf_inputs import model_inputs

# per image, and per prompt with that image's number of tokens as text
PARTS = ("vision", "prefill")


@dataclass(frozen=True, kw_only=True)
class EnginePhase(Case):
    suite = "engine_phases"
    weighed = counted = False
    size: str
    part: str
    visual: int

    def sizes(self):
        return {"model": self.size, "visual_tokens": self.visual, "prompt_tokens": self._tokens()}

    def _tokens(self) -> int:
        return len(Workload(self.size, (f"image-{self.visual}",), 1).requests[0].sequence)

    def small(self):
        return replace(self, size="tiny", visual=4)

    def build(self, device):
        kind = f"image-{self.visual}" if self.part == "vision" else f"text-{self._tokens() - 81}"
        return Problem({"workload": Workload(self.size, (kind,), 1)})

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

    def truth(self, problem):
        return {}

    def explain(self, problem):
        return problem.inputs["workload"].packed.describe()


def _our_tower(workload: Workload) -> Tensor:
    sequence = workload.requests[0].sequence
    workload.packed  # noqa: B018
    return workload.model.vision(sequence.pixel_values.to(workload.dtype), sequence.grid_thw)


def _their_tower(workload: Workload) -> Tensor:
    sequence = workload.requests[0].sequence
    model = workload.transformers.model
    return model.get_image_features(sequence.pixel_values, sequence.grid_thw).pooler_output[0]


def _our_prefill(workload: Workload) -> Tensor:
    """Reads the prompt, its keys and values kept, and samples one token."""
    engine = ours.native(workload, rows=1)
    (finished,) = engine.submit(workload.requests, Sampling(1, stop="eos"))
    return finished.rollout.vector


def _their_prefill(workload: Workload) -> Tensor:
    model = workload.transformers
    inputs = model_inputs(model, [workload.requests[0].sequence], pad_id=workload.special.eos_id)
    return model(**inputs, use_cache=True, logits_to_keep=1).logits.argmax(-1)


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu" or quick:
        return []
    return [
        EnginePhase(name=f"{part}-{visual}-2b-bf16", dtype=torch.bfloat16, size="2b", part=part, visual=visual)
        for part in PARTS
        for visual in (64, 256)
    ]  # fmt: skip
