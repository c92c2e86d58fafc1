"""The next token of each row, in plain PyTorch without host synchronisation.

Legend: B rows, V tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks

# splitmix64, as signed 64-bit numbers
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def sample_tokens(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    forced: Tensor,
    truncated: bool = True,
) -> tuple[Tensor, Tensor]:
    """token int64 [B], log-probability [B]; see umer1_kernels.sample_tokens.

    Settings are tensors [B]. `truncated` False: it is known that no row has top-p or top-k.
    """
    logits = logits.to(checks.compute_dtype(logits))
    best, likeliest = logits.max(-1)
    greedy = temperature == 0
    divisor = torch.where(greedy, 1.0, temperature).to(logits.dtype)
    exponent = (logits - best[:, None]) / divisor[:, None]
    mass = exponent.exp()
    kept = _kept(logits, mass.double(), top_p, top_k) if truncated else mass.double()
    cumulative = kept.cumsum(-1)
    # u < 1, so u * total lies inside the kept mass; right=True skips tokens without any
    threshold = uniforms(seed, step)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    token = torch.where(greedy, likeliest, token.clamp_max(logits.shape[-1] - 1))
    token = torch.where(forced >= 0, forced, token)
    return token, exponent.gather(-1, token[:, None]).squeeze(-1) - mass.sum(-1).log()


def uniforms(seed: Tensor, step: Tensor) -> Tensor:
    """float64 [B] in [0, 1): one number per (seed, step), int64 each, by the splitmix64 finaliser."""
    value = seed + (step + 1) * GOLDEN + GOLDEN
    value = (value ^ _shifted(value, 30)) * FIRST
    value = (value ^ _shifted(value, 27)) * SECOND
    value = value ^ _shifted(value, 31)
    return _shifted(value, 11).double() * 2.0**-53


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shifted right, zeros coming in."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _kept(logits: Tensor, mass: Tensor, top_p: Tensor, top_k: Tensor) -> Tensor:
    """The mass [B, V] of the tokens that may be taken; 0 elsewhere."""
    # of equal logits the lower token comes first
    order = torch.sort(logits, dim=-1, descending=True, stable=True).indices
    ordered = mass.gather(-1, order)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    ordered = torch.where((top_k[:, None] == 0) | (rank < top_k[:, None]), ordered, 0.0)
    # a token stays while the mass before it is below top-p: the first one always does
    before = ordered.cumsum(-1) - ordered
    beyond = before >= top_p[:, None].double() * ordered.sum(-1, keepdim=True)
    ordered = ordered.masked_fill(beyond & (top_p[:, None] < 1), 0.0)
    return torch.zeros_like(mass).scatter_(-1, order, ordered)
