"""Random inputs that look like the real ones, never zeros: clustered vectors, a head that knows its labels.

Products on zeros run faster than on real numbers (less power), and uniform logits hide rounding errors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RANK = 32  # effective rank of a clustered embedding space
IGNORED = -100
SEQUENCE = 256  # tokens per sequence of a masked batch
WEIGHT_STD = 0.02


def embeddings(
    count: int, dim: int, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Queries and their targets, [count, dim] each, L2-normalised, cosine 0.6 to 0.8 within a pair."""
    generator = torch.Generator(device).manual_seed(seed)
    basis = torch.randn(RANK, dim, generator=generator, device=device)

    def clustered() -> Tensor:
        place = torch.randn(count, RANK, generator=generator, device=device)
        vectors = F.normalize(place @ basis, dim=1)
        noise = torch.randn(count, dim, generator=generator, device=device)
        return F.normalize(vectors.add_(noise, alpha=0.2 / math.sqrt(dim)), dim=1)

    target = clustered()
    cosine = 0.6 + 0.2 * torch.rand(count, 1, generator=generator, device=device)
    query = clustered().mul_((1 - cosine**2).sqrt()).add_(cosine * target)
    return F.normalize(query, dim=1).to(dtype), target.to(dtype)


def head(
    tokens: int,
    hidden_size: int,
    vocabulary: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [T, H], head weight [V, H], labels [T] of which some are likely and some are not."""
    generator = torch.Generator(device).manual_seed(seed)
    weight = torch.randn(vocabulary, hidden_size, generator=generator, device=device)
    weight = weight.mul_(WEIGHT_STD).to(dtype)
    labels = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    hidden = torch.randn(tokens, hidden_size, generator=generator, device=device)
    own = F.normalize(weight[labels].float(), dim=1)
    # the label's logit is 2 to 16 whatever H is; log V is about 12
    logit = 2 + 14 * torch.rand(tokens, 1, generator=generator, device=device)
    hidden += own * logit / (WEIGHT_STD * math.sqrt(hidden_size))
    return hidden.to(dtype), weight, labels


def approximate_logprob(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities [T] of `head`'s ids without the [T, V] product: its other logits are Gaussian."""
    rows = hidden.float()
    own = (rows * weight[ids].float()).sum(1)
    spread = rows.norm(dim=1) * WEIGHT_STD
    others = math.log(weight.shape[0] - 1) + spread**2 / 2
    return own - torch.logaddexp(own, others)


def completion_mask(tokens: int, share: float, device: torch.device) -> Tensor:
    """bool [T]: the last `share` of every sequence of 256 tokens counts, as completions do."""
    length = min(SEQUENCE, tokens)
    position = torch.arange(tokens, device=device) % length
    return position >= length - round(length * share)
