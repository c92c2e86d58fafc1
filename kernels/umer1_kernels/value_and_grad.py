"""Loss and gradients without the caller's autograd graph, for trainers that cache representations.

GradCache embeds a large batch chunk by chunk without a graph, takes the loss and its gradients in
the representations, and runs the chunks again with those gradients as upstream gradients. These
functions are its middle step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import checks, contrastive, distributed
from umer1_kernels.backends import choose
from umer1_kernels.dual import DualInfoNCE
from umer1_kernels.info_nce import check_pairs, dual_info_nce, info_nce

REDUCTIONS = ("mean", "sum")


class PairGradient(NamedTuple):
    """Gradients of the two sides of a pair: [N, D] and [M, D]."""

    query: Tensor
    target: Tensor


class InfoNCEGradients(NamedTuple):
    """loss, and its gradients in query [N, D], target [M, D] and scale (None for a float scale)."""

    loss: Tensor
    query: Tensor
    target: Tensor
    scale: Tensor | None


class DualInfoNCEGradients(NamedTuple):
    """result: the DualInfoNCE without a graph; gradients of result.loss in gen, disc and scale."""

    result: DualInfoNCE
    gen: PairGradient
    disc: PairGradient
    scale: Tensor | None


def info_nce_value_and_grad(
    query: Tensor,
    target: Tensor,
    *,
    scale: float | Tensor = 50.0,
    reduction: str = "mean",
    **keywords,
) -> InfoNCEGradients:
    """info_nce and its gradients; works inside torch.no_grad and needs no requires_grad.

    Args:
        query, target, scale, keywords: info_nce's, `group` included.
        reduction: "mean" or "sum"; row losses have no one gradient.

    Returns:
        InfoNCEGradients: loss as info_nce returns it; gradients in the dtype and shape of query,
        target and scale. With `group` they are what loss.backward() would leave in .grad of this
        process: of query and target, the gradient of the *sum* of all processes' losses in the rows
        of this one (rows are candidates elsewhere too); of scale, this process's share, whose mean
        over processes is the gradient of the mean loss. Parameter gradients that follow from them
        are to be averaged over processes, as DistributedDataParallel does: then they are those of
        the mean loss. Every process must make the call.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """

    def loss(query: Tensor, target: Tensor, scale: float | Tensor) -> Tensor:
        return info_nce(query, target, scale=scale, reduction=reduction, **keywords)

    native = False
    with distributed.failing_together(keywords.get("group")):
        checks.check_choice("reduction", reduction, REDUCTIONS)
        if _on_cuda(query):
            options = _options(
                info_nce, query, target, scale=scale, reduction=reduction, **keywords
            )
            backend = options.pop("backend")
            contrastive.check_arguments(query, target, **options)
            chosen = choose("info_nce", backend, query, target, arguments=options).backend
            native = chosen == "cuda"
    if native:  # never in a group of several processes
        from umer1_kernels.backends.cuda.dual_info_nce import value_and_grad

        result, grads, scale_grad = value_and_grad((query, target), None, **options)
        return InfoNCEGradients(result.loss, *grads, scale_grad)
    value, (query_grad, target_grad), scale_grad = _run(
        loss, lambda value: value, (query, target), scale
    )
    return InfoNCEGradients(value.detach(), query_grad, target_grad, scale_grad)


def dual_info_nce_value_and_grad(
    gen: tuple[Tensor, Tensor],
    disc: tuple[Tensor, Tensor],
    *,
    scale: float | Tensor = 50.0,
    reduction: str = "mean",
    **keywords,
) -> DualInfoNCEGradients:
    """dual_info_nce and the gradients of its `loss`; see info_nce_value_and_grad.

    Args:
        gen, disc, scale, keywords: dual_info_nce's, `align` and `group` included.
        reduction: "mean" or "sum".

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """

    def loss(gen_query, gen_target, disc_query, disc_target, scale) -> DualInfoNCE:
        pairs = (gen_query, gen_target), (disc_query, disc_target)
        return dual_info_nce(*pairs, scale=scale, reduction=reduction, **keywords)

    native = False
    with distributed.failing_together(keywords.get("group")):
        for name, pair in (("gen", gen), ("disc", disc)):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise TypeError(f"{name} must be a pair (query, target)")
        checks.check_choice("reduction", reduction, REDUCTIONS)
        if _on_cuda(gen[0]):
            options = _options(
                dual_info_nce, gen, disc, scale=scale, reduction=reduction, **keywords
            )
            backend, align = options.pop("backend"), options.pop("align")
            check_pairs(gen, disc, align, options)
            tensors, arguments = (*gen, *disc), {"align": align, **options}
            chosen = choose("dual_info_nce", backend, *tensors, arguments=arguments).backend
            native = chosen == "cuda"
    if native:
        from umer1_kernels.backends.cuda.dual_info_nce import value_and_grad

        result, grads, scale_grad = value_and_grad(gen, disc, **arguments)
        sides = PairGradient(*grads[:2]), PairGradient(*grads[2:])
        return DualInfoNCEGradients(result, *sides, scale_grad)
    result, grads, scale_grad = _run(loss, lambda result: result.loss, (*gen, *disc), scale)
    values = (value.detach() for value in result[:4])
    return DualInfoNCEGradients(
        DualInfoNCE(*values, result.metrics),
        PairGradient(*grads[:2]),
        PairGradient(*grads[2:]),
        scale_grad,
    )


def _run(
    function: Callable,
    loss_of: Callable,
    vectors: tuple,
    scale: float | Tensor,
) -> tuple[Tensor | DualInfoNCE, tuple[Tensor, ...], Tensor | None]:
    """function(*vectors, scale) on leaves of its own; the gradients of loss_of(its result)."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [_leaf(value) for value in (*vectors, scale)]
        result = function(*leaves)
        wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # the losses made their gradients in the forward: this only hands them out
        grads = torch.autograd.grad(loss_of(result), wanted, materialize_grads=True)
    count = len(vectors)
    return result, grads[:count], grads[count] if len(grads) > count else None


def _on_cuda(value) -> bool:
    """Whether the CUDA backend's own form, one launch for loss and gradients, may run."""
    return isinstance(value, Tensor) and value.is_cuda


def _options(function: Callable, first, second, **keywords) -> dict:
    """All keywords of the function, its defaults included."""
    bound = inspect.signature(function).bind(first, second, **keywords)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[2:])


def _leaf(value):
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value  # a float scale, or a mistake that info_nce names
    value = value.detach()
    # autograd refuses tensors made in inference mode
    return (value.clone() if value.is_inference() else value).requires_grad_()
