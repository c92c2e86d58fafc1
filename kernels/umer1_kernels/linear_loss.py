"""linear_cross_entropy, linear_logprob, grpo_loss: losses of the logits `hidden @ weight.T`.

Legend: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.backends import choose
from umer1_kernels.execution import linear_operators as operators
from umer1_kernels.execution.weighted_cross_entropy import weighted_cross_entropy
from umer1_kernels.reference import linear_loss as reference
from umer1_kernels.reference.linear_loss import GRPOLoss


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    row_weight: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy of the logits `hidden @ weight.T` with `target`.

    Args:
        hidden: [T, H]. weight: [V, H]. target: int64 [T] in [0, V), or `ignore_index`: rows that
            are left out before the product.
        reduction: "mean" over rows that count (0 if none does), "sum", or "none": [T], 0 where
            ignored.
        row_weight: [T], not differentiated, with reduction="sum": the sum is weighted, and the
            rows' own losses [T] come with it, without gradient.
        backend: "auto", "reference", "cpu" or "triton".

    Returns:
        float32 (float64 for float64 inputs); logits are never rounded below that. With row_weight:
        (weighted sum, losses [T]).

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """
    _check(hidden, weight, "target", target)
    checks.check_choice("reduction", reduction, checks.REDUCTIONS)
    if row_weight is not None:
        _check_row("row_weight", row_weight, hidden)
        if reduction != "sum":
            raise ValueError(f'reduction is {reduction!r}; with row_weight it must be "sum"')
    chosen = choose("linear_cross_entropy", backend, hidden, weight).backend
    if chosen == "reference" and row_weight is not None:
        losses = reference.linear_cross_entropy(
            hidden, weight, target, ignore_index=ignore_index, reduction="none"
        )
        # whatever stands beside an ignored row, in the gradient too
        constant = torch.where(target != ignore_index, row_weight.detach(), 0.0)
        return (losses * constant).sum(), losses.detach()
    if chosen == "reference":
        return reference.linear_cross_entropy(
            hidden, weight, target, ignore_index=ignore_index, reduction=reduction
        )
    checks.check_no_tangent("linear_cross_entropy", hidden, weight)
    mask = target != ignore_index
    if row_weight is not None:
        needs = _needs(hidden, weight)
        constant = row_weight.detach()
        return weighted_cross_entropy(hidden, weight, target, mask, constant, *needs, chosen)[:2]
    if reduction == "none":
        return -operators.linear_logprob_values(hidden, weight, target, mask, 1.0, False, chosen)[0]
    options = (reduction == "mean", *_needs(hidden, weight), chosen)
    return operators.linear_cross_entropy_sum(hidden, weight, target, mask, *options)[0]


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    return_entropy: bool = False,
    backend: str = "auto",
):
    """Log-probability of `ids` under softmax(hidden @ weight.T / temperature).

    Args:
        hidden: [T, H]. weight: [V, H]. ids: int64 [T].
        mask: [T]; rows where it is 0 or False are left out before the product and give 0; their ids
            may be anything.
        return_entropy: also return the entropy of each row's distribution, differentiable too.
        backend: "auto", "reference", "cpu" or "triton".

    Returns:
        [T] float32 (float64 for float64 inputs), or (logprob, entropy).

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """
    _check(hidden, weight, "ids", ids)
    _check_temperature(temperature)
    if mask is not None:
        _check_row("mask", mask, hidden)
    chosen = choose("linear_logprob", backend, hidden, weight).backend
    if chosen == "reference":
        return reference.linear_logprob(
            hidden, weight, ids, temperature=temperature, mask=mask, return_entropy=return_entropy
        )
    checks.check_no_tangent("linear_logprob", hidden, weight)
    counts = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0
    logprob, entropy, *_ = operators.linear_logprob_values(
        hidden, weight, ids, counts, temperature, return_entropy, chosen
    )
    return (logprob, entropy) if return_entropy else logprob


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
    backend: str = "auto",
) -> GRPOLoss:
    """The clipped policy-gradient loss with a k3 KL penalty, straight from hidden states.

        r_t  = exp(logp_t - old_t)
        KL_t = exp(ref_t - logp_t) - (ref_t - logp_t) - 1
        l_t  = -min(r_t A_t, clip(r_t, 1 - clip[0], 1 + clip[1]) A_t) + beta KL_t
        loss = sum over masked tokens of l_t / normalizer

    Args:
        hidden: [T, H]. weight: [V, H]. ids: int64 [T], the sampled tokens. advantage: [T].
        mask: [T], non-zero where a token counts; the other rows never reach the product.
        old_logprob: [T] of the sampling policy; None: the current one (r = 1, its gradient stays).
        ref_logprob: [T] of the frozen reference; None: no KL term.
        normalizer: the released mean over sequences is 2048 times their number.
        backend: "auto", "reference", "cpu" or "triton".

    Returns:
        GRPOLoss: loss; kl, clip_fraction (tokens on the clipped branch) and entropy, means over
        masked tokens
        without gradient. float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """
    _check(hidden, weight, "ids", ids)
    _check_temperature(temperature)
    rows = {
        "advantage": advantage,
        "mask": mask,
        "old_logprob": old_logprob,
        "ref_logprob": ref_logprob,
    }
    for name, value in rows.items():
        if value is not None or name in ("advantage", "mask"):
            _check_row(name, value, hidden)
    if len(clip) != 2 or min(clip) < 0:
        raise ValueError(f"clip is {clip!r}; it must be two non-negative numbers (low, high)")
    if not normalizer > 0:
        raise ValueError(f"normalizer is {normalizer}; it must be positive")
    chosen = choose("grpo_loss", backend, hidden, weight).backend
    if chosen == "reference":
        return reference.grpo_loss(
            hidden,
            weight,
            ids,
            advantage,
            mask=mask,
            old_logprob=old_logprob,
            ref_logprob=ref_logprob,
            clip=clip,
            beta=beta,
            normalizer=normalizer,
            temperature=temperature,
        )
    checks.check_no_tangent("grpo_loss", hidden, weight)
    constants = (
        value if value is None else value.detach()
        for value in (advantage, mask != 0, old_logprob, ref_logprob)
    )
    numbers = (*clip, beta, normalizer, temperature)
    options = (*map(float, numbers), *_needs(hidden, weight), chosen)
    found = operators.grpo_loss_sum(hidden, weight, ids, *constants, *options)
    return GRPOLoss(*found[:4])


def _needs(*tensors: Tensor) -> list[bool]:
    """Which gradients the forward is to make."""
    return [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]


def _check(hidden: Tensor, weight: Tensor, ids_name: str, ids: Tensor) -> None:
    checks.check_floating("hidden", hidden, 2)
    checks.check_floating("weight", weight, 2)
    checks.check_same("weight", weight, "hidden", hidden, dtype=False)
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it must be [V, {hidden.shape[1]}]"
        )
    checks.check_integer(ids_name, ids, (hidden.shape[0],))
    checks.check_same(ids_name, ids, "hidden", hidden, dtype=False)


def _check_row(name: str, value, hidden: Tensor) -> None:
    checks.check_shape(name, value, (hidden.shape[0],))
    checks.check_same(name, value, "hidden", hidden, dtype=False)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be positive")
