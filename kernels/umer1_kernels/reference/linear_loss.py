"""Losses of a linear head over a large vocabulary: cross-entropy, log-probability, GRPO.

Legend: T tokens, R tokens that count, H hidden size, V vocabulary.
Tokens that do not count are dropped before the product; the others go in chunks that are recomputed
in the backward, so no more than one chunk's [chunk, V] logits live at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from umer1_kernels import checks

CHUNK_LOGITS = 2**26  # logits per chunk: 256 MiB of float32


class GRPOLoss(NamedTuple):
    """`loss` carries the gradient; the others are means over the masked tokens, without one."""

    loss: Tensor
    kl: Tensor
    clip_fraction: Tensor
    entropy: Tensor


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """See umer1_kernels.linear_cross_entropy."""
    live = (target != ignore_index).nonzero().squeeze(1)
    loss = -_logprob_and_entropy(hidden, weight, target, live, "target", 1.0, entropy=False)[0]
    if reduction == "none":
        return _scatter(loss, live, hidden.shape[0])
    return loss.sum() if reduction == "sum" else loss.sum() / max(live.shape[0], 1)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    return_entropy: bool = False,
):
    """See umer1_kernels.linear_logprob."""
    live = _live(ids, mask)
    logprob, entropy = _logprob_and_entropy(
        hidden, weight, ids, live, "ids", temperature, entropy=return_entropy
    )
    logprob = _scatter(logprob, live, hidden.shape[0])
    return (logprob, _scatter(entropy, live, hidden.shape[0])) if return_entropy else logprob


def grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    advantage: Tensor,
    *,
    mask: Tensor,
    old_logprob: Tensor | None = None,
    ref_logprob: Tensor | None = None,
    clip: tuple[float, float] = (0.2, 0.28),
    beta: float = 0.04,
    normalizer: float = 2048.0,
    temperature: float = 1.0,
) -> GRPOLoss:
    """See umer1_kernels.grpo_loss."""
    live = _live(ids, mask)
    logprob, entropy = _logprob_and_entropy(
        hidden, weight, ids, live, "ids", temperature, entropy="detached"
    )
    advantage = advantage[live].detach().to(logprob.dtype)
    old = logprob.detach() if old_logprob is None else old_logprob[live].detach()
    ratio = torch.exp(logprob - old)
    clipped = ratio.clamp(1 - clip[0], 1 + clip[1])
    token_loss = -torch.minimum(ratio * advantage, clipped * advantage)
    kl = torch.zeros_like(logprob)
    if ref_logprob is not None:
        kl = k3_divergence(logprob, ref_logprob[live].detach())
        token_loss = token_loss + beta * kl
    with torch.no_grad():
        worse = clipped * advantage < ratio * advantage
        count = max(live.shape[0], 1)
        metrics = [value.sum() / count for value in (kl, worse.to(kl.dtype), entropy)]
    return GRPOLoss(token_loss.sum() / normalizer, *(metric.detach() for metric in metrics))


def k3_divergence(logprob: Tensor, ref_logprob: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref - policy, which estimates KL(policy || ref); never negative."""
    difference = ref_logprob - logprob
    return torch.expm1(difference) - difference


def _live(ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.arange(ids.shape[0], device=ids.device)
    return (mask != 0).nonzero().squeeze(1)


def _scatter(values: Tensor, live: Tensor, length: int) -> Tensor:
    """[R] -> [T], 0 elsewhere."""
    return values.new_zeros(length).index_copy(0, live, values)


def _logprob_and_entropy(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    live: Tensor,
    ids_name: str,
    temperature: float,
    entropy: bool | str,
) -> tuple[Tensor, Tensor]:
    """[R] log-probabilities and entropies (zeros unless asked for) of the live tokens."""
    rows, ids = hidden[live], ids[live].long()
    checks.check_range(ids_name, ids, 0, weight.shape[0])
    dtype = checks.compute_dtype(hidden, weight)
    with checks.full_precision(hidden):
        # one upcast for all chunks: their gradients are summed in float32 and rounded once
        rows, wide = rows.to(dtype), weight.to(dtype)
        size = max(1, CHUNK_LOGITS // weight.shape[0])
        recompute = rows.shape[0] > size and torch.is_grad_enabled()
        outputs = []
        for row_chunk, id_chunk in zip(rows.split(size), ids.split(size), strict=True):
            inputs = (row_chunk, wide, id_chunk, temperature, entropy)
            if recompute:
                outputs.append(checkpoint(_chunk, *inputs, use_reentrant=False))
            else:
                outputs.append(_chunk(*inputs))
        logprob, entropies = zip(*outputs, strict=True)
        return torch.cat(logprob), torch.cat(entropies)


def _chunk(
    rows: Tensor, weight: Tensor, ids: Tensor, temperature: float, entropy: bool | str
) -> tuple[Tensor, Tensor]:
    logits = rows @ weight.T
    if temperature != 1.0:
        logits = logits / temperature
    lse = torch.logsumexp(logits, 1)
    logprob = logits.gather(1, ids[:, None]).squeeze(1) - lse
    if not entropy:
        return logprob, torch.zeros_like(lse)
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy != "detached"):
        probability = torch.exp(logits - lse[:, None])
        return logprob, lse - (probability * logits).sum(1)
