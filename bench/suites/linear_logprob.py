"""linear_logprob: the forward of the old and the reference policy, and with a gradient for every token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import umer1_kernels as kernels
from bench.case import Case
from bench.suites.linear import HEADS, QUICK_HEAD, Linear, wide
from bench.suites.ours import describe


@dataclass(frozen=True, kw_only=True)
class LinearLogprob(Linear):
    """[T], 0 where masked. With a gradient the upstream gradient differs from token to token."""

    suite = "linear_logprob"
    gradient: bool = True

    @property
    def products(self) -> int:
        # the upstream gradient comes after the forward: without kept logits they are made twice
        return 4 if self.gradient else 1

    def build(self, device):
        problem = super().build(device)
        if not self.gradient:
            return replace(problem, leaves=())
        generator = torch.Generator(device).manual_seed(1)
        upstream = torch.randn(self.tokens, generator=generator, device=device)
        upstream = upstream.to(torch.promote_types(self.dtype, torch.float32))
        return replace(problem, upstream=upstream)

    def row_inputs(self, hidden, weight, ids):
        return {"ids": ids, "mask": self.mask(ids.device)}

    def ours(self, device):
        options = self.options(device)
        return lambda hidden, weight, ids, mask: kernels.linear_logprob(
            hidden, weight, ids, mask=mask, **options
        )

    def peer(self, negative_logprob):
        def logprob(hidden: Tensor, weight: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
            values = wide(-negative_logprob(hidden, weight, ids))
            return torch.where(mask, values, 0.0)

        return logprob

    def compacted(self, peer):
        def logprob(hidden: Tensor, weight: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
            live = mask.nonzero().squeeze(1)
            values = peer(hidden[live], weight, ids[live], mask[live])
            return values.new_zeros(len(mask)).index_copy(0, live, values)

        return logprob

    def ids(self, problem):
        return problem.inputs["ids"]

    def rows_that_count(self, problem):
        return problem.inputs["mask"]

    def row_loss(self, problem, logprob):
        if problem.upstream is None:
            return logprob.sum()
        return (logprob * problem.upstream[self.rows_that_count(problem)].double()).sum()

    def expected_output(self, problem, loss, logprob, live):
        values = logprob.new_zeros(self.tokens).index_copy(0, live, logprob.detach())
        return None, values

    def explain(self, problem):
        hidden, weight, ids, mask = problem.inputs.values()
        options = self.options(hidden.device)
        return describe(kernels.linear_logprob, hidden, weight, ids, mask=mask, **options)


def cases(device: str, quick: bool) -> list[Case]:
    shared = {"dtype": torch.bfloat16, "live": 0.4}
    if quick:
        shape = {"tokens": 512, **QUICK_HEAD, **shared}
        return [
            LinearLogprob(name="t512-completion-40-forward-bf16", gradient=False, **shape),
            LinearLogprob(name="t512-completion-40-gradient-bf16", **shape),
        ]
    names = ("eager", "eager-compacted", "eager-bf16-compacted", "compile-compacted")
    tokens, heads = (8192, ("2b", "7b")) if device == "cuda" else (2048, ("2b",))
    return [
        LinearLogprob(
            name=f"t{tokens}-{head}-completion-40-{name}-bf16",
            tokens=tokens,
            gradient=name == "gradient",
            peers=names,
            **HEADS[head],
            **shared,
        )
        for head in heads
        for name in ("forward", "gradient")
    ]
