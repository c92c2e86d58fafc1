"""Losses of a linear head: cross-entropy, log-probability, GRPO. Legend: T tokens, H hidden size, V vocabulary.

"Eager" is F.cross_entropy((hidden @ weight.T).float(), target). A masked case has every peer twice: as it is, and with
its rows compacted by hand (`-compacted`), which is what a careful trainer does at the price of a host sync.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import data, truth
from bench.case import OURS, Case, Expected, Gemms, Problem, Variant
from bench.peers import eager_and_compiled
from bench.suites.ours import backend_of

# head of the 2B and of the 7B model
HEADS = {
    "2b": {"hidden_size": 1536, "vocabulary": 151936},
    "7b": {"hidden_size": 3584, "vocabulary": 152064},
}
QUICK_HEAD = {"hidden_size": 512, "vocabulary": 8192}
DEAD_SAMPLE = 16  # rows that do not count, whose gradient must be exactly 0


def negative_logprob(
    hidden: Tensor, weight: Tensor, ids: Tensor, reduction: str = "none"
) -> Tensor:
    """[T]: the eager form, log-softmax of float32 logits."""
    return F.cross_entropy((hidden @ weight.T).float(), ids, reduction=reduction)


def negative_logprob_bf16(
    hidden: Tensor, weight: Tensor, ids: Tensor, reduction: str = "none"
) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, ids, reduction=reduction)


def wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class Linear(Case):
    """T tokens through a head. `live` is the share of tokens that count: the end of every sequence."""

    baseline = "eager"
    products = 3
    tokens: int
    hidden_size: int
    vocabulary: int
    live: float = 1.0

    def sizes(self):
        shape = {"T": self.tokens, "H": self.hidden_size, "V": self.vocabulary}
        return {**shape, "live": int(self.mask(torch.device("cpu")).sum())}

    def small(self):
        return replace(self, tokens=32, vocabulary=64)

    def mask(self, device: torch.device) -> Tensor:
        return data.completion_mask(self.tokens, self.live, device)

    def build(self, device):
        hidden, weight, ids = data.head(
            self.tokens, self.hidden_size, self.vocabulary, self.dtype, device
        )
        inputs = {"hidden": hidden.requires_grad_(), "weight": weight.requires_grad_()}
        return Problem(
            {**inputs, **self.row_inputs(hidden.detach(), weight.detach(), ids)},
            leaves=("hidden", "weight"),
        )

    @abstractmethod
    def row_inputs(self, hidden: Tensor, weight: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """What goes beside hidden and weight, [T] each."""

    @abstractmethod
    def ours(self, device: torch.device) -> Callable[..., Tensor]:
        """The function of the kernel library with this case's options."""

    @abstractmethod
    def peer(self, negative_logprob: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The same loss over one way to make -log p; masks by arithmetic."""

    @abstractmethod
    def compacted(self, peer: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The peer on the rows that count alone."""

    @abstractmethod
    def rows_that_count(self, problem: Problem) -> Tensor:
        """bool [T]."""

    @abstractmethod
    def row_loss(self, problem: Problem, logprob: Tensor) -> Tensor:
        """Scalar, float64 and differentiable: what the gradient is taken of, from the live log-probabilities."""

    @abstractmethod
    def ids(self, problem: Problem) -> Tensor:
        """int64 [T]."""

    def others(self, device: torch.device) -> list[Variant]:
        """Peers that are not plain torch."""
        return []

    def variants(self, device):
        forms = {"": self.peer(negative_logprob)}
        if self.dtype != torch.float32:
            forms["-bf16"] = self.peer(negative_logprob_bf16)
        variants = [Variant(OURS, OURS, self.ours(device)), *eager_and_compiled(forms)]
        if self.live < 1:
            variants += [
                replace(
                    variant,
                    name=variant.name + "-compacted",
                    function=self.compacted(variant.function),
                    note="rows compacted by hand",
                )
                for variant in eager_and_compiled(forms)
            ]
        return variants + self.others(device)

    def truth(self, problem):
        hidden, weight = problem.inputs["hidden"], problem.inputs["weight"]
        live = self.rows_that_count(problem).nonzero().squeeze(1)
        rows, labels = hidden.detach()[live], self.ids(problem)[live]
        log_sum, _ = truth.log_sums(rows, weight, 1.0)
        own = (rows.double() * weight.detach()[labels].double()).sum(1)
        logprob = (own - log_sum).requires_grad_()
        loss = self.row_loss(problem, logprob)
        expected = {"output": Expected(*self.expected_output(problem, loss, logprob, live))}
        if not problem.leaves:
            return expected
        row_weight = -torch.autograd.grad(loss, logprob)[0]
        some = truth.sample(len(live), live.device)
        by_row = truth.row_gradient(
            rows[some], weight, 1.0, log_sum[some], labels[some], row_weight[some]
        )
        dead = (~self.rows_that_count(problem)).nonzero().squeeze(1)[:DEAD_SAMPLE]
        index = torch.cat([live[some], dead])
        by_row = torch.cat([by_row, by_row.new_zeros(len(dead), by_row.shape[1])])
        # entries that are somebody's label, and entries that are nobody's
        entries = torch.cat([labels[some], truth.sample(len(weight), live.device)]).unique()
        by_entry = truth.column_gradient(rows, weight, 1.0, log_sum, labels, row_weight, entries)
        return {
            **expected,
            "hidden": Expected(index, by_row),
            "weight": Expected(entries, by_entry),
        }

    def expected_output(self, problem: Problem, loss: Tensor, logprob: Tensor, live: Tensor):
        """(index, values): the loss itself unless the output is one value per row."""
        return None, loss.detach()

    def gemms(self, problem):
        """On the rows that count alone: nobody has to multiply the others."""
        hidden, weight = (problem.inputs[name].detach() for name in ("hidden", "weight"))
        return Gemms(hidden[self.rows_that_count(problem)], weight, self.products)

    def options(self, device: torch.device) -> dict[str, str]:
        return {"backend": backend_of(device)}
