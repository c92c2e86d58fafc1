"""GenerationGather's step, a case of the suite gather_hidden: the vectors of the slots that read the token just now.

On CUDA only: there a decoding step runs it inside its graph, and microseconds count. B slots, H hidden size; no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from bench.case import OURS, Case, Expected, Problem, Variant
from bench.graphs import in_graph
from bench.suites.ours import backend_of, native

TOKEN = 151_658


@dataclass(frozen=True, kw_only=True)
class GenerationGather(Case):
    """Every slot reads the token: the most a step can have to do. Output [B, H]."""

    suite = "gather_hidden"
    slots: int
    hidden_size: int

    def sizes(self):
        return {"B": self.slots, "H": self.hidden_size}

    def small(self):
        return replace(self, slots=4, hidden_size=16)

    def build(self, device):
        generator = torch.Generator(device).manual_seed(0)
        shape = (self.slots, self.hidden_size)
        hidden = torch.randn(shape, generator=generator, device=device).to(self.dtype)
        return Problem(
            {
                "hidden": hidden,
                "input_ids": torch.full((self.slots,), TOKEN, device=device),
                "slot_ids": torch.randperm(self.slots, generator=generator, device=device),
                "generated": torch.ones(self.slots, dtype=torch.bool, device=device),
            }
        )

    def variants(self, device):
        ours = Variant(OURS, OURS, self._step(device, backend_of(device)))
        plain = Variant("torch-operators", "eager", self._step(device, "reference"))
        own = native(self._step(device, "cuda"))
        return [ours, plain, own, in_graph(own), in_graph(plain)]

    def _step(self, device, backend: str):
        @cache  # made by the first call: a backend that is not available is not asked for
        def gather() -> kernels.GenerationGather:
            return kernels.GenerationGather(
                self.slots, self.hidden_size, TOKEN, device=device, backend=backend
            )

        def step(hidden: Tensor, **where: Tensor) -> Tensor:
            gather().step_(hidden, *where.values())
            return gather().vectors

        return step

    def truth(self, problem):
        hidden, _, slot_ids, _ = problem.inputs.values()
        vectors = torch.empty_like(hidden, dtype=torch.float64)
        vectors[slot_ids] = F.normalize(hidden.double(), dim=1)
        return {"output": Expected(None, vectors)}

    def explain(self, problem):
        return f"{backend_of(problem.inputs['hidden'].device)}: one call per step"


def cases(quick: bool) -> list[Case]:
    slots, size = (16, 256) if quick else (256, 1536)
    name = f"slots{slots}-h{size}-bf16"
    return [GenerationGather(name=name, slots=slots, hidden_size=size, dtype=torch.bfloat16)]
