"""gather_hidden: the normalised state at the last occurrence of a token. B sequences, L positions, H hidden size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from bench.case import OURS, Case, Expected, Problem, Variant
from bench.peers import compiled
from bench.suites import generation_gather
from bench.suites.ours import backend_of, describe, native

TOKEN = 151_658
VOCABULARY = 151_936


def loop(hidden: Tensor, input_ids: Tensor) -> Tensor:
    """One sequence after the other, as trainers write it."""
    vectors = []
    for states, ids in zip(hidden, input_ids, strict=True):
        positions = (ids == TOKEN).nonzero().squeeze(1)
        vectors.append(states[positions[-1]].to(_wide(hidden.dtype)))
    return F.normalize(torch.stack(vectors), dim=1)


def vectorised(hidden: Tensor, input_ids: Tensor) -> Tensor:
    """No host sync: the largest position that holds the token."""
    position = torch.arange(input_ids.shape[1], device=hidden.device)
    last = torch.where(input_ids == TOKEN, position, -1).amax(1)
    row = torch.arange(len(hidden), device=hidden.device)
    return F.normalize(hidden[row, last].to(_wide(hidden.dtype)), dim=1)


def ours(hidden: Tensor, input_ids: Tensor, *, backend: str) -> Tensor:
    return kernels.gather_hidden(hidden, input_ids, TOKEN, backend=backend).vectors


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True, kw_only=True)
class GatherHidden(Case):
    """Every sequence holds the token twice; the gradient is zero everywhere but at the last."""

    suite = "gather_hidden"
    sequences: int
    length: int
    hidden_size: int

    def sizes(self):
        return {"B": self.sequences, "L": self.length, "H": self.hidden_size}

    def small(self):
        return replace(self, sequences=2, length=8, hidden_size=16)

    def build(self, device):
        generator = torch.Generator(device).manual_seed(0)
        shape = (self.sequences, self.length)
        ids = torch.randint(TOKEN, shape, generator=generator, device=device)
        half = self.length // 2
        for first, last in ((0, half), (half, self.length)):
            place = torch.randint(first, last, (shape[0], 1), generator=generator, device=device)
            ids.scatter_(1, place, TOKEN)
        hidden = torch.randn(*shape, self.hidden_size, generator=generator, device=device)
        upstream = torch.randn(shape[0], self.hidden_size, generator=generator, device=device)
        upstream = upstream.to(_wide(self.dtype))
        inputs = {"hidden": hidden.to(self.dtype).requires_grad_(), "input_ids": ids}
        return Problem(inputs, leaves=("hidden",), upstream=upstream)

    def variants(self, device):
        found = [
            Variant(OURS, OURS, partial(ours, backend=backend_of(device))),
            Variant("loop", "loop", loop, "one sequence after the other"),
            Variant("vectorised", "eager", vectorised),
            Variant("compile", "compile", compiled(vectorised)),
        ]
        return found + [native(partial(ours, backend="cuda"))] * (device.type == "cuda")

    def truth(self, problem):
        hidden, ids = problem.inputs.values()
        wide = hidden.detach().double().requires_grad_()
        output = vectorised(wide, ids)
        gradient = torch.autograd.grad(output, wide, problem.upstream.double())[0]
        return {"output": Expected(None, output.detach()), "hidden": Expected(None, gradient)}

    def explain(self, problem):
        hidden, ids = problem.inputs.values()
        backend = backend_of(hidden.device)
        return describe(kernels.gather_hidden, hidden, ids, TOKEN, backend=backend)


def cases(device: str, quick: bool) -> list[Case]:
    sequences, length, size = (8, 128, 256) if quick else (32, 1024, 1536)
    training = GatherHidden(
        name=f"b{sequences}-l{length}-h{size}-bf16",
        sequences=sequences,
        length=length,
        hidden_size=size,
        dtype=torch.bfloat16,
    )
    return [training, *(generation_gather.cases(quick) if device == "cuda" else [])]
