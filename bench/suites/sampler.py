"""sample_tokens: the next token of B rows of V logits, greedy or sampled, and its log-probability."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import umer1_kernels as kernels
from bench.case import OURS, Case, Expected, Problem, Traffic, Variant
from bench.graphs import in_graph
from bench.peers import compiled
from bench.suites.ours import backend_of, describe
from umer1_kernels.reference.sampler import uniforms

VOCABULARY = 151_936
FROM_AN_EDGE = 1e-6  # more than float32 sums of probabilities are off


@dataclass(frozen=True, kw_only=True)
class Sampler(Case):
    """Output [2, B]: tokens over V, log-probabilities. Every row has the same settings."""

    suite = "sampler"
    rows: int
    vocabulary: int = VOCABULARY
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def sizes(self):
        return {"B": self.rows, "V": self.vocabulary, "temperature": self.temperature,
                "top_p": self.top_p, "top_k": self.top_k}  # fmt: skip

    def small(self):
        return replace(self, rows=2, vocabulary=100)

    def build(self, device):
        generator = torch.Generator(device).manual_seed(0)
        # a few likely tokens before a long tail of some percent, as a language model's
        logits = 2.5 * torch.randn(self.rows, self.vocabulary, generator=generator, device=device)
        likely = torch.randint(self.vocabulary, (self.rows, 8), generator=generator, device=device)
        logits.scatter_add_(
            1, likely, 16 + torch.rand(self.rows, 8, generator=generator, device=device)
        )
        whole = {"generator": generator, "device": device, "dtype": torch.int64}
        seed = torch.randint(-(2**62), 2**62, (self.rows,), **whole)
        step = torch.arange(self.rows, device=device)
        return Problem({"logits": logits.to(self.dtype), "seed": seed, "step": step})

    def eager(self, logits: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        """As it is usually written: softmax, a sort where there is top-p or top-k, a cumulative sum in float64."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.temperature == 0:
            token = logits.argmax(-1)
        else:
            logits = logits / self.temperature
            cumulative = self._kept(logits).double().cumsum(-1)
            threshold = uniforms(seed, step)[:, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
            token = token.clamp_max(self.vocabulary - 1)
        logprob = logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)
        return torch.stack([token / self.vocabulary, logprob])

    def _kept(self, logits: Tensor) -> Tensor:
        """Probabilities [B, V], 0 where top-k or top-p drop a token."""
        mass = torch.softmax(logits, -1)
        if not self.top_k and self.top_p == 1:
            return mass
        ordered, order = torch.sort(mass, dim=-1, descending=True, stable=True)
        ordered = self._of_top_k(ordered)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= self.top_p * ordered.sum(-1, keepdim=True), 0)
        return torch.zeros_like(mass).scatter_(-1, order, ordered)

    def _of_top_k(self, ordered: Tensor) -> Tensor:
        if self.top_k:
            ordered[:, self.top_k :] = 0
        return ordered

    def variants(self, device):
        backend = backend_of(device)
        settings = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}

        def ours(logits: Tensor, seed: Tensor, step: Tensor) -> Tensor:
            token, logprob = kernels.sample_tokens(logits, seed, step, **settings, backend=backend)
            return torch.stack([token / self.vocabulary, logprob])

        found = [
            Variant(OURS, OURS, ours),
            Variant("eager", "eager", self.eager),
            Variant("compile", "compile", compiled(self.eager)),
        ]
        # a GPU decodes from a graph
        return [*found, *map(in_graph, found[:2])] if device.type == "cuda" else found

    def truth(self, problem):
        """Of the rows whose token float32 probabilities decide."""
        inputs = dict(problem.inputs, logits=problem.inputs["logits"].double())
        clear = (self._distance_to_an_edge(**inputs) > FROM_AN_EDGE).nonzero()[:, 0]
        return {"output": Expected((slice(None), clear), self.eager(**inputs)[:, clear])}

    def _distance_to_an_edge(self, logits: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        """float64 [B]: from a row's number to the nearest edge between two tokens, or from top-p to that of a token."""
        nearest = logits.new_full((len(logits),), torch.inf)
        if self.temperature == 0:
            return nearest
        logits = logits / self.temperature
        if self.top_p < 1:
            ordered = self._of_top_k(torch.softmax(logits, -1).sort(-1, descending=True).values)
            ordered /= ordered.sum(-1, keepdim=True)
            away = (ordered.cumsum(-1) - ordered - self.top_p).abs()
            # whether so little is kept or not makes no difference
            nearest = away.masked_fill(ordered < FROM_AN_EDGE, torch.inf).amin(-1)
        edges = self._kept(logits).cumsum(-1)
        drawn = uniforms(seed, step)[:, None]
        return torch.minimum((edges / edges[:, -1:] - drawn).abs().amin(-1), nearest)

    def traffic(self, problem):
        logits = problem.inputs["logits"]
        return Traffic(logits.numel() * logits.element_size(), logits.device)

    def explain(self, problem):
        inputs = problem.inputs
        backend = backend_of(inputs["logits"].device)
        return describe(kernels.sample_tokens, **inputs, backend=backend)


KINDS = {
    "greedy": {"temperature": 0.0},
    "all": {"temperature": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "top-k": {"temperature": 1.0, "top_k": 50},
}


def cases(device: str, quick: bool) -> list[Case]:
    size = 8192 if quick else VOCABULARY
    counts = (4,) if quick else (1, 64, 256) if device == "cuda" else (1, 16)
    return [
        Sampler(name=f"{kind}-b{rows}-v{size}-bf16", dtype=torch.bfloat16, rows=rows, vocabulary=size,
                **settings)
        for kind, settings in KINDS.items()
        for rows in counts
    ]  # fmt: skip
