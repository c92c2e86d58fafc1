"""InfoNCE on clustered vectors, one-way and symmetric. Legend: N queries, M targets, D dimension."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from bench import data, truth
from bench.case import OURS, Case, Expected, Gemms, Problem, Variant
from bench.peers import eager_and_compiled, package
from bench.suites.ours import backend_of, describe

SCALE = 50.0
# above this many multiplications the float64 column sums would take longer than the benchmark
LONGEST_TRUTH = {"cpu": 2e12, "cuda": 1e15}


@dataclass(frozen=True, kw_only=True)
class InfoNCE(Case):
    """`count` pairs of dimension `dim`; gradients by both sides."""

    suite = "info_nce"
    count: int
    dim: int = 1536
    symmetric: bool = False
    recompute: bool = False  # symmetric, and too large to keep exp(z): the floor is four products

    @property
    def baseline(self) -> str:
        return "eager" if self.dtype == torch.float32 else "eager-bf16"

    @property
    def directions(self) -> tuple[str, ...]:
        return ("q2t", "t2q") if self.symmetric else ("q2t",)

    def sizes(self):
        return {"N": self.count, "M": self.count, "D": self.dim, "directions": len(self.directions)}

    def small(self):
        return replace(self, count=64)

    def build(self, device):
        query, target = data.embeddings(self.count, self.dim, self.dtype, device)
        inputs = {
            "query": query.requires_grad_(),
            "target": target.requires_grad_(),
            "labels": torch.arange(self.count, device=device),
        }
        return Problem(inputs, leaves=("query", "target"))

    def variants(self, device):
        options = {"scale": SCALE, "directions": self.directions, "backend": backend_of(device)}

        def ours(query: Tensor, target: Tensor, labels: Tensor) -> Tensor:
            return kernels.info_nce(query, target, **options)  # positives in order: no labels

        def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
            loss = F.cross_entropy(logits, labels)
            # one matrix serves both directions: the strongest eager form
            return (loss + F.cross_entropy(logits.T, labels)) / 2 if self.symmetric else loss

        def eager(query: Tensor, target: Tensor, labels: Tensor) -> Tensor:
            return loss_of((query @ target.T).float() * SCALE, labels)

        def eager_bf16(query: Tensor, target: Tensor, labels: Tensor) -> Tensor:
            return loss_of((query @ target.T) * SCALE, labels)

        def eager_fp32_product(query: Tensor, target: Tensor, labels: Tensor) -> Tensor:
            return loss_of((query.float() @ target.float().T) * SCALE, labels)

        def two_products(query: Tensor, target: Tensor, labels: Tensor) -> Tensor:
            one, other = (SCALE * query) @ target.T, (SCALE * target) @ query.T
            return (F.cross_entropy(one, labels) + F.cross_entropy(other, labels)) / 2

        variants = [Variant(OURS, OURS, ours)]
        if self.dtype == torch.float32:
            variants += eager_and_compiled({"": eager})
        else:
            variants += eager_and_compiled({"": eager, "-bf16": eager_bf16})
            variants.append(
                Variant("eager-fp32-product", "eager", eager_fp32_product, "exact, in float32")
            )
        if self.symmetric:
            note = "the form of CLIP trainers: a product per direction"
            variants.append(Variant("eager-two-products", "eager", two_products, note))
        return [*variants, self._sentence_transformers()]

    def _sentence_transformers(self) -> Variant:
        loss_class, reason = package("sentence_transformers.losses", "MultipleNegativesRankingLoss")

        @functools.cache
        def criterion():
            return loss_class()(
                model=None,
                scale=SCALE,
                similarity_fct=lambda one, other: one @ other.T,
                directions=("query_to_doc", "doc_to_query")[: len(self.directions)],
                partition_mode="per_direction",
            )

        def loss(query: Tensor, target: Tensor, labels: Tensor) -> Tensor:
            return criterion().compute_loss_from_embeddings([query, target], labels)

        name = "sentence-transformers"
        return Variant(name, name, loss, "MultipleNegativesRankingLoss", reason)

    def truth(self, problem):
        query, target = (problem.inputs[name] for name in ("query", "target"))
        every = torch.arange(self.count, device=query.device)
        index = truth.sample(self.count, query.device)
        share = torch.full_like(every, 1 / self.count / len(self.directions), dtype=torch.float64)
        if self.count**2 * self.dim > LONGEST_TRUTH[query.device.type]:
            return self._row_truth(query, target, index, share)
        rows, columns = truth.log_sums(query, target, SCALE, by_column=self.symmetric)
        positive = SCALE * (query.detach().double() * target.detach().double()).sum(1)
        loss = (rows - positive).mean()

        def along(one: Tensor, other: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
            return (
                truth.row_gradient(one[index], other, SCALE, sums[index], index, share[index]),
                truth.column_gradient(one, other, SCALE, sums, every, share, index),
            )

        by_query, by_target = along(query, target, rows)
        if self.symmetric:
            loss = (loss + (columns - positive).mean()) / 2
            back_target, back_query = along(target, query, columns)
            by_query, by_target = by_query + back_query, by_target + back_target
        return {
            "output": Expected(None, loss),
            "query": Expected(index, by_query),
            "target": Expected(index, by_target),
        }

    def _row_truth(self, query, target, index, share) -> dict[str, Expected]:
        """One-way only: a sample of the queries' gradients, which needs no other row's sum."""
        if self.symmetric:
            return {}
        rows, _ = truth.log_sums(query[index], target, SCALE)
        gradient = truth.row_gradient(query[index], target, SCALE, rows, index, share[index])
        return {"query": Expected(index, gradient)}

    def gemms(self, problem):
        query, target = (problem.inputs[name].detach() for name in ("query", "target"))
        return Gemms(query, target, 4 if self.recompute else 3)

    def explain(self, problem):
        query, target = (problem.inputs[name] for name in ("query", "target"))
        options = {"directions": self.directions, "backend": backend_of(query.device)}
        return describe(kernels.info_nce, query, target, **options)


def cases(device: str, quick: bool) -> list[Case]:
    bf16, fp32 = torch.bfloat16, torch.float32
    if quick:
        shape = {"count": 1024, "dim": 512}
        return [
            InfoNCE(name="one-way-1024-bf16", dtype=bf16, **shape),
            InfoNCE(name="symmetric-1024-bf16", dtype=bf16, symmetric=True, **shape),
            InfoNCE(name="symmetric-1024-fp32", dtype=fp32, symmetric=True, **shape),
        ]
    if device == "cuda":
        return _cuda_cases()
    large = ("eager", "eager-bf16", "compile", "compile-bf16")
    largest = ("eager-bf16",)  # what 24 GB hold
    return [
        InfoNCE(name="one-way-4096-bf16", dtype=bf16, count=4096),
        InfoNCE(name="symmetric-4096-bf16", dtype=bf16, count=4096, symmetric=True),
        InfoNCE(name="one-way-4096-fp32", dtype=fp32, count=4096),
        InfoNCE(name="symmetric-4096-fp32", dtype=fp32, count=4096, symmetric=True),
        InfoNCE(name="one-way-16384-bf16", dtype=bf16, count=16384, peers=large),
        InfoNCE(
            name="symmetric-16384-bf16",
            dtype=bf16,
            count=16384,
            symmetric=True,
            recompute=True,
            peers=large,
        ),
        InfoNCE(name="one-way-32768-bf16", dtype=bf16, count=32768, peers=largest),
    ]


def _cuda_cases() -> list[Case]:
    bf16 = torch.bfloat16
    peers = ("eager", "eager-bf16", "compile", "compile-bf16", "sentence-transformers")
    materialised = ("eager", "eager-bf16", "compile")
    none = ()
    return [
        InfoNCE(name="one-way-1024-bf16", dtype=bf16, count=1024, peers=peers),
        InfoNCE(name="symmetric-1024-bf16", dtype=bf16, count=1024, symmetric=True, peers=peers),
        InfoNCE(name="one-way-16384-bf16", dtype=bf16, count=16384, peers=peers),
        InfoNCE(name="symmetric-16384-bf16", dtype=bf16, count=16384, symmetric=True, peers=peers),
        InfoNCE(name="one-way-65536-bf16", dtype=bf16, count=65536, peers=materialised),
        InfoNCE(
            name="symmetric-65536-bf16", dtype=bf16, count=65536, symmetric=True, peers=materialised
        ),
        InfoNCE(name="one-way-262144-bf16", dtype=bf16, count=262144, peers=none),
        InfoNCE(
            name="symmetric-262144-bf16",
            dtype=bf16,
            count=262144,
            symmetric=True,
            recompute=True,
            peers=none,
        ),
        InfoNCE(name="one-way-1048576-bf16", dtype=bf16, count=1048576, peers=none),
    ]
