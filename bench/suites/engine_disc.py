"""Discriminative embeddings of mixed inputs: texts, images of two sizes, videos."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from bench.case import OURS, Case, Expected, Problem, Variant
from bench.engine import ours, peers
from bench.engine.workload import Workload
from bench.suites.engine_generate import CHECKED, COSINE
from umer1.model import pack

KINDS = ("text-120", "image-64", "image-256", "video-128")


@dataclass(frozen=True, kw_only=True)
class EngineDisc(Case):
    """The kinds follow each other, so a padded batch has some of each."""

    suite = "engine_disc"
    weighed = counted = False
    workload: Workload
    batches: tuple[int, ...]

    @property
    def tolerance(self):
        return (2 - 2 * COSINE) ** 0.5

    def sizes(self):
        found = self.workload.sizes()
        del found["tokens"]
        return found

    def small(self):
        return replace(self, workload=Workload("tiny", ("text-9", "image-4"), 2))

    def build(self, device):
        return Problem({"workload": replace(self.workload)})

    def variants(self, device):
        return [
            Variant(OURS, OURS, _native),
            *[
                Variant(f"released-b{batch}", "transformers", partial(peers.released_disc, batch=batch),
                        f"one forward with logits and all hidden states, batches of {batch}", sweep="released")
                for batch in self.batches
            ],
            *[
                Variant(f"backbone-b{batch}", "transformers", partial(peers.backbone_disc, batch=batch),
                        f"the padded prompts without head and kept states, batches of {batch}", sweep="released")
                for batch in self.batches
            ],
        ]  # fmt: skip

    @torch.no_grad()
    def truth(self, problem):
        workload = problem.inputs["workload"]
        wide = workload.wide_model()
        states = [
            wide(pack([request.sequence]))[request.disc_position]
            for request in workload.requests[:CHECKED]
        ]
        vectors = F.normalize(torch.stack(states), dim=-1).double()
        return {"output": Expected(torch.arange(len(vectors)), vectors)}

    def explain(self, problem):
        return problem.inputs["workload"].packed.describe()


def _native(workload: Workload):
    return ours.disc_vectors(ours.native(workload, rows=32), workload)


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu":
        return []
    size, count = ("tiny", 16) if quick else ("0.1b", 64)
    kinds = ("text-20", "image-4", "video-8") if quick else KINDS
    workload = Workload(size, kinds, count)
    batches = (8,) if quick else (1, 4, 16)
    name = f"mixed-{count}-{size}-bf16"
    return [EngineDisc(name=name, dtype=torch.bfloat16, workload=workload, batches=batches)]
