"""linear_cross_entropy with all tokens, and with 70 percent of them ignored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from bench.case import Case, Variant
from bench.data import IGNORED
from bench.peers import package
from bench.suites.linear import HEADS, QUICK_HEAD, Linear
from bench.suites.ours import describe


@dataclass(frozen=True, kw_only=True)
class LinearCrossEntropy(Linear):
    """Mean over the tokens that are not ignored."""

    suite = "linear_cross_entropy"

    def row_inputs(self, hidden, weight, ids):
        return {"target": torch.where(self.mask(ids.device), ids, IGNORED)}

    def ours(self, device):
        options = self.options(device)
        return lambda hidden, weight, target: kernels.linear_cross_entropy(
            hidden, weight, target, **options
        )

    def peer(self, negative_logprob):
        def loss(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            return negative_logprob(hidden, weight, target, reduction="mean")

        return loss

    def compacted(self, peer):
        def loss(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            live = (target != IGNORED).nonzero().squeeze(1)
            return peer(hidden[live], weight, target[live])

        return loss

    def others(self, device):
        return [*self._torch(), *([self._liger()] if device.type == "cuda" else [])]

    def _torch(self) -> list[Variant]:
        missing = "" if hasattr(F, "linear_cross_entropy") else "this torch has no such function"
        plain, chunked = "the eager form behind one name", "chunked, default options"

        def whole(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            return F.linear_cross_entropy(hidden, weight, target)

        def in_chunks(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            options = torch.nn.LinearCrossEntropyOptions()
            return F.linear_cross_entropy(hidden, weight, target, options=options)

        return [
            Variant("torch", "torch", whole, plain, missing),
            Variant("torch-chunked", "torch", in_chunks, chunked, missing),
        ]

    def _liger(self) -> Variant:
        function, reason = package(
            "liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy"
        )

        def loss(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            return function()(hidden, weight, target)

        return Variant("liger", "liger", loss, "default options", reason)

    def ids(self, problem):
        return problem.inputs["target"].clamp_min(0)

    def rows_that_count(self, problem):
        return problem.inputs["target"] != IGNORED

    def row_loss(self, problem, logprob):
        return -logprob.mean()

    def explain(self, problem):
        inputs, options = problem.inputs, self.options(problem.inputs["hidden"].device)
        return describe(kernels.linear_cross_entropy, *inputs.values(), **options)


def cases(device: str, quick: bool) -> list[Case]:
    dtype = torch.bfloat16
    if quick:
        shape = {"tokens": 512, **QUICK_HEAD, "dtype": dtype}
        return [
            LinearCrossEntropy(name="t512-ignored-70-bf16", live=0.3, **shape),
            LinearCrossEntropy(name="t512-ignored-0-bf16", **shape),
        ]
    tokens, heads = (8192, ("2b", "7b")) if device == "cuda" else (2048, ("2b",))
    shares = {"ignored-70": 0.3, "ignored-0": 1.0}
    return [
        LinearCrossEntropy(
            name=f"t{tokens}-{head}-{name}-bf16",
            tokens=tokens,
            live=live,
            dtype=dtype,
            peers=_cuda_peers(live) if device == "cuda" else None,
            **HEADS[head],
        )
        for head in heads
        for name, live in shares.items()
    ]


def _cuda_peers(live: float) -> tuple[str, ...]:
    """The strongest ones: compiling every form would take longer than the measurement."""
    names = ("eager", "eager-bf16", "compile", "torch-chunked", "liger")
    return names if live == 1 else (*names, "eager-compacted", "compile-compacted")
