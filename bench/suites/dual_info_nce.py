"""dual_info_nce: both losses of a small batch and all their gradients, on CUDA alone, where launches count.

The released trainer has 256 pairs in a contrastive batch; up to 1408 the logits of both kinds stay on an H200's chip.
Legend: N pairs, D dimension; symmetric, positives in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from bench import data
from bench.case import OURS, Case, Gemms, Problem, Variant
from bench.graphs import in_graph
from bench.peers import eager_and_compiled
from bench.suites.info_nce import SCALE, InfoNCE
from bench.suites.ours import backend_of, describe, native

LEAVES = ("gen_query", "gen_target", "disc_query", "disc_target")


def ours(gen_query, gen_target, disc_query, disc_target, *, backend: str) -> Tensor:
    pairs = (gen_query, gen_target), (disc_query, disc_target)
    return kernels.dual_info_nce(*pairs, scale=SCALE, backend=backend).loss


def whole(gen_query, gen_target, disc_query, disc_target) -> dict[str, Tensor]:
    """Losses and gradients without autograd: one launch."""
    pairs = (gen_query, gen_target), (disc_query, disc_target)
    found = kernels.dual_info_nce_value_and_grad(*pairs, scale=SCALE, backend="cuda")
    return {"output": found.result.loss, **dict(zip(LEAVES, (*found.gen, *found.disc)))}


def eager(*, wide: bool, **vectors: Tensor) -> Tensor:
    """One matrix serves both directions; `wide`: float32 from the product on."""
    total = 0.0
    for kind in ("gen", "disc"):
        query, target = vectors[f"{kind}_query"], vectors[f"{kind}_target"]
        logits = query @ target.T
        logits = (logits.float() if wide else logits) * SCALE
        labels = torch.arange(len(query), device=query.device)
        loss = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
        total = total + loss / 2
    return total


@dataclass(frozen=True, kw_only=True)
class DualInfoNCE(Case):
    """`count` pairs of each kind; gradients by all four sides."""

    suite = "dual_info_nce"
    baseline = "eager-bf16"
    count: int
    dim: int = 1536

    def sizes(self):
        return {"N": self.count, "M": self.count, "D": self.dim, "kinds": 2}

    def small(self):
        return replace(self, count=64)

    def build(self, device):
        pairs = (data.embeddings(self.count, self.dim, self.dtype, device, seed) for seed in (0, 1))
        vectors = [side.requires_grad_() for pair in pairs for side in pair]
        return Problem(dict(zip(LEAVES, vectors, strict=True)), leaves=LEAVES)

    def variants(self, device):
        plain = eager_and_compiled(
            {"": partial(eager, wide=True), "-bf16": partial(eager, wide=False)}
        )
        found = [Variant(OURS, OURS, partial(ours, backend=backend_of(device))), *plain]
        if device.type != "cuda":
            return found
        one = native(whole, "umer1-cuda-whole")
        two = native(partial(ours, backend="cuda"))
        graphs = (in_graph(variant, LEAVES) for variant in (two, one, plain[0], plain[2]))
        return [*found, two, one, *graphs]

    def truth(self, problem):
        alone = InfoNCE(
            name=self.name, dtype=self.dtype, count=self.count, dim=self.dim, symmetric=True
        )
        expected, losses = {}, []
        for kind in ("gen", "disc"):
            sides = {side: problem.inputs[f"{kind}_{side}"] for side in ("query", "target")}
            found = alone.truth(Problem(sides))
            losses.append(found.pop("output"))
            expected |= {f"{kind}_{side}": value for side, value in found.items()}
        output = losses[0]._replace(values=losses[0].values + losses[1].values)
        return {"output": output, **expected}

    def gemms(self, problem):
        """Both kinds' queries with one kind's targets: as many operations."""
        query, target, other, _ = (problem.inputs[name].detach() for name in LEAVES)
        return Gemms(torch.cat([query, other]), target, 3)

    def explain(self, problem):
        query, target, *disc = (problem.inputs[name] for name in LEAVES)
        backend = backend_of(query.device)
        return describe(kernels.dual_info_nce, (query, target), tuple(disc), backend=backend)


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cuda":
        return []
    shapes = [(256, 512)] if quick else [(n, d) for d in (1536, 3584) for n in (256, 1024, 1408)]
    return [
        DualInfoNCE(name=f"dual-{count}-{dim}-bf16", dtype=torch.bfloat16, count=count, dim=dim)
        for count, dim in shapes
    ]
