"""Peak memory of a generation above the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from bench.case import OURS, Case, Problem, Variant
from bench.engine import ours, peers
from bench.engine.workload import Workload


@dataclass(frozen=True, kw_only=True)
class EngineMemory(Case):
    """Keys and values, activations, kept states, everything that is there beside the weights and the prompts."""

    suite = "engine_memory"
    timed = counted = False
    workload: Workload

    @property
    def baseline(self):
        return f"released-b{self.workload.prompts}"

    def sizes(self):
        return self.workload.sizes()

    def small(self):
        return replace(self, workload=Workload("tiny", ("text-9",), 2, length=8))

    def build(self, device):
        return Problem({"workload": replace(self.workload)})

    def variants(self, device):
        batch = self.workload.prompts
        return [
            Variant(OURS, OURS, _native, checked=False),
            Variant(f"released-b{batch}", "transformers", partial(peers.released, batch=batch), checked=False),
            Variant(f"generate-b{batch}", "transformers", partial(peers.generated, batch=batch), checked=False),
        ]  # fmt: skip

    def truth(self, problem):
        return {}

    def explain(self, problem):
        return problem.inputs["workload"].describe()


def _native(workload: Workload):
    return ours.vectors(ours.native(workload, rows=len(workload.scripts)), workload)


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu" or quick:
        return []
    return [
        EngineMemory(
            name=f"b8-t512-{size}-bf16",
            dtype=torch.bfloat16,
            workload=Workload(size, ("text-120",), 8, length=512),
        )
        for size in ("0.1b", "2b")
    ]
