"""Choose the next token of each row.

A row's randomness comes from (its own seed, its own step) alone, so a request samples the same tokens alone,
in any batch and in any order. One uniform number per row and step suffices: the token is found in the
cumulative distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate.

    Args:
        max_new_tokens: most tokens written per request (the step that reads `<gen_emb>` is not one of them).
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probability reaches it (1.0: all).
        top_k: keep the k most likely tokens (0: all).
        seed: base of every row's own seed.
        stop: "first" ends a row at its first generated `<gen_emb>`; "eos" goes on to `<|im_end|>` and the last
            generated `<gen_emb>` gives the vector, as the released evaluation does.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: str = "first"

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {self.max_new_tokens}, wants at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature: got {self.temperature}, wants 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: got {self.top_p}, wants a number in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"top_k: got {self.top_k}, wants 0 (all tokens) or more")
        if self.stop not in ("first", "eos"):
            raise ValueError(f"stop: got {self.stop!r}, wants 'first' or 'eos'")


def sample(
    logits: Tensor, sampling: Sampling, row_seeds: list[int], steps: list[int]
) -> tuple[Tensor, Tensor]:
    """Next token and its log-probability for each row.

    Args:
        logits: [B, V], any float dtype; taken to float32.
        row_seeds: B seeds from `row_seed`; with `steps`, the row's only source of randomness.
        steps: B counts of tokens already written.

    Returns:
        tokens int64 [B]; log-probabilities float32 [B] of those tokens under softmax(logits / temperature)
        over the whole vocabulary (temperature 1 when greedy): what a trainer computes for the same token.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, _token_logprob(logits, tokens)
    logits = logits / sampling.temperature
    uniform = torch.from_numpy(uniforms(row_seeds, steps)).to(logits.device)
    probabilities = _truncated(logits, sampling).double()
    cumulative = probabilities.cumsum(-1)
    # u < 1, so u * total lands strictly inside the kept mass; right=True skips tokens of probability 0
    threshold = uniform[:, None] * cumulative[:, -1:]
    tokens = (
        torch.searchsorted(cumulative, threshold, right=True)
        .squeeze(-1)
        .clamp_max(logits.shape[-1] - 1)
    )
    return tokens, _token_logprob(logits, tokens)


def row_seed(base: int, request: int, sample_index: int) -> int:
    """Seed of one row: a hash of the run's seed, the request's own number and which of its samples this is."""
    state = _mix(base & _MASK)
    state = _mix(state ^ ((request * 0x9E3779B97F4A7C15) & _MASK))
    return _mix(state ^ ((sample_index * 0xD1B54A32D192ED03) & _MASK))


def uniforms(row_seeds: list[int], steps: list[int]) -> np.ndarray:
    """float64 [B] in [0, 1): one number per (seed, step), by the splitmix64 finaliser."""
    values = np.array(
        [_mix(seed + (step + 1) * 0x9E3779B97F4A7C15) for seed, step in zip(row_seeds, steps)],
        dtype=np.uint64,
    )
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _truncated(logits: Tensor, sampling: Sampling) -> Tensor:
    probabilities = torch.softmax(logits, -1)
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return probabilities
    ordered, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = 0
    if sampling.top_p < 1.0:
        # a token stays while the mass before it is below top_p: the first one always does
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= sampling.top_p * ordered.sum(-1, keepdim=True), 0)
    return torch.zeros_like(probabilities).scatter_(-1, order, ordered)


def _token_logprob(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)
