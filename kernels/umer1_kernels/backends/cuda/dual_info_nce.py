"""info_nce and dual_info_nce of a small batch: a launch forward, a launch backward, or one for both.

The forward leaves the gradient of the logits in bfloat16 ([pairs, N, M]), from which the backward makes
those of the vectors once the upstream gradients of .loss, .gen, .disc and .align are known: each of
them counts, none is rounded on its way, and a second backward finds everything in place. Row losses
(reduction="none") are made again in the backward, which is one launch. Where the loss is all that is
differentiated (`*_value_and_grad`), one launch makes losses and gradients.

Legend: N queries, M targets, D dimension. No GPU has run this yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import register_fake

from umer1_kernels.backends.cuda.operators import operators
from umer1_kernels.checks import REDUCTIONS
from umer1_kernels.dual import DualInfoNCE

LOSS, LOGIT_GRADIENT, GRADIENTS = range(3)  # what the operator makes
BEST_ENGINE = 0  # the tensor core instructions for this GPU; 1: mma, 2: wgmma
SIDES = ("gen", "disc")
METRICS = ("hit", "positive_cosine", "negative_cosine")


class Result(NamedTuple):
    """What the operator returns; what it did not make is empty."""

    loss: Tensor  # float32 scalars, or [N]
    gen: Tensor
    disc: Tensor
    align: Tensor
    metrics: Tensor  # [sides, 3]
    slope: Tensor  # [4]: the losses' derivatives by the scale
    logit_grad: Tensor
    gen_query_grad: Tensor
    gen_target_grad: Tensor
    disc_query_grad: Tensor
    disc_target_grad: Tensor


def info_nce(query: Tensor, target: Tensor, **options) -> Tensor:
    """umer1_kernels.info_nce; arguments are checked already."""
    return _differentiable((query, target), None, 0.0, **options).loss


def dual_info_nce(gen, disc, *, align: float, **options) -> DualInfoNCE:
    """umer1_kernels.dual_info_nce; arguments are checked already."""
    return _dual(_differentiable(gen, disc, align, **options))


@torch.no_grad()
def value_and_grad(gen, disc, *, align: float = 0.0, scale, **options):
    """The DualInfoNCE, the gradients of its loss in all vectors, and in the scale (None: a number)."""
    result = _call(gen, disc, align, GRADIENTS, scale=scale, **options)
    scale_grad = None
    if isinstance(scale, Tensor):
        scale_grad = result.slope[0].to(scale.dtype).reshape(scale.shape)
    return _dual(result), result[7:] if disc else result[7:9], scale_grad


def _differentiable(gen, disc, align: float, **options) -> Result:
    inputs = (*gen, *(disc or ()), options["scale"])
    wanted = torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in inputs
    )
    # row losses have no gradient before their upstream ones are known
    make = LOGIT_GRADIENT if wanted and options["reduction"] != "none" else LOSS
    return _call(gen, disc, align, make, **options)


def _call(
    gen,
    disc,
    align: float,
    make: int,
    *,
    scale: float | Tensor,
    labels: Tensor | None,
    label_offset: int,
    query_ids: Tensor | None,
    target_ids: Tensor | None,
    directions: tuple[str, ...],
    partition: str,
    row_weight: Tensor | None,
    reduction: str,
    group,
) -> Result:
    learnable = isinstance(scale, Tensor)
    found = operators.small_dual_info_nce(
        *gen,
        *(disc or (None, None)),
        scale.float().reshape(()) if learnable else None,
        0.0 if learnable else float(scale),
        _long(labels),
        label_offset,
        _long(query_ids),
        _long(target_ids),
        None if row_weight is None else row_weight.detach().float(),
        "q2t" in directions,
        "t2q" in directions,
        directions[0] == "t2q",
        partition == "joint",
        REDUCTIONS.index(reduction),
        bool(align),
        float(align),
        make,
        BEST_ENGINE,
    )
    return Result(*found)


def _long(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.long()


def _dual(result: Result) -> DualInfoNCE:
    metrics = {
        f"{side}_{name}": result.metrics[row, column]
        for row, side in enumerate(SIDES[: result.metrics.shape[0]])
        for column, name in enumerate(METRICS)
    }
    return DualInfoNCE(*result[:4], metrics)


@register_fake("umer1_kernels::small_dual_info_nce")
def _(gen_query: Tensor, gen_target: Tensor, disc_query, disc_target, *rest):
    reduction, crossed, _, make, _ = rest[-5:]
    new = lambda *shape: gen_query.new_empty(shape, dtype=torch.float32)
    count, targets = gen_query.shape[0], gen_target.shape[0]
    shape = (count,) if REDUCTIONS[reduction] == "none" else ()
    sides = 1 if disc_query is None else 2
    pairs = 4 if crossed else sides
    padded = [-(-size // 128) * 128 for size in (count, targets)]
    vectors = (gen_query, gen_target, disc_query, disc_target)
    return (
        *(new(*shape) for _ in range(4)),
        new(sides, 3),
        new(4),
        gen_query.new_empty((pairs, *padded) if make == LOGIT_GRADIENT else (0,)),
        *(_gradient_like(gen_query, value, make == GRADIENTS) for value in vectors),
    )


@register_fake("umer1_kernels::small_dual_info_nce_gradient")
def _(gen_query: Tensor, gen_target, disc_query, disc_target, *rest):
    needed, _ = rest[-2:]
    vectors = (gen_query, gen_target, disc_query, disc_target)
    return (
        *(_gradient_like(gen_query, value, needed >> k & 1) for k, value in enumerate(vectors)),
        gen_query.new_empty((), dtype=torch.float32),
    )


def _gradient_like(like: Tensor, vectors: Tensor | None, wanted) -> Tensor:
    return like.new_empty(vectors.shape if wanted and vectors is not None else (0,))


def _save(ctx, inputs, output) -> None:
    (
        *vectors, scale, fixed_scale, labels, label_offset, query_id, target_id, weight, q2t, t2q,
        hit_by_column, joint, reduction, crossed, align, make, engine,
    ) = inputs  # fmt: skip
    output = Result(*output)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])
    ctx.save_for_backward(
        *vectors, scale, labels, query_id, target_id, weight, output.slope, output.logit_grad
    )
    ctx.fixed_scale, ctx.label_offset = fixed_scale, label_offset
    ctx.softmaxes = (q2t, t2q, hit_by_column, joint)
    ctx.row_losses = REDUCTIONS[reduction] == "none"
    ctx.crossed, ctx.align, ctx.make, ctx.engine = crossed, align, make, engine


def _backward(ctx, *upstream: Tensor | None):
    if torch.is_grad_enabled():
        raise RuntimeError('info_nce has no second derivative here; use backend="reference"')
    upstream = upstream[:4]
    if all(grad is None for grad in upstream):
        return (None,) * 20
    *vectors, scale, labels, query_id, target_id, weight, slope, logit_grad = ctx.saved_tensors
    needed = [ctx.needs_input_grad[k] for k in range(4)]
    if ctx.row_losses:
        weights = _term_weights(upstream, weight, ctx.align)
        result = operators.small_dual_info_nce(
            *vectors, scale, ctx.fixed_scale, labels, ctx.label_offset, query_id, target_id,
            weights, *ctx.softmaxes, REDUCTIONS.index("sum"), ctx.crossed, 1.0, GRADIENTS,
            ctx.engine,
        )  # fmt: skip
        result = Result(*result)
        gradients, scale_grad = result[7:], result.slope[0]
    else:
        if ctx.make != LOGIT_GRADIENT:
            raise RuntimeError(
                "small_dual_info_nce was called without make=1: no gradient was kept"
            )
        bits = sum(wanted << k for k, wanted in enumerate(needed))
        *gradients, scale_grad = operators.small_dual_info_nce_gradient(
            *vectors, logit_grad, slope, *upstream, ctx.crossed, ctx.align, bits, ctx.engine
        )
    gradients = [grad if wanted else None for grad, wanted in zip(gradients, needed)]
    return *gradients, scale_grad if ctx.needs_input_grad[4] else None, *(None,) * 15


def _term_weights(upstream, weight: Tensor | None, align: float) -> Tensor:
    """[3, N]: what the row losses of gen, of disc and of the crossed pairs' mean count for."""
    one = next(grad for grad in upstream if grad is not None)
    loss, *terms = (torch.zeros_like(one) if grad is None else grad for grad in upstream)
    weights = torch.stack([loss + terms[0], loss + terms[1], align * loss + terms[2]])
    return weights if weight is None else weights * weight


torch.library.register_autograd(
    "umer1_kernels::small_dual_info_nce", _backward, setup_context=_save
)
