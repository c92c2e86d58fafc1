"""info_nce on the CPU: products by aten on chunks of rows, the compiled operators between them.

Legend: N rows, C candidates of one direction, D dimension. All logits are float32 (float64 for
float64 inputs).

With z the logits of a row's negatives and margin m = logsumexp(z) - z_positive, the row's loss is
softplus(m): never negative and exact near zero. sigmoid(m) is the negatives' share of the softmax,
so d loss / d z = sigmoid(m) softmax(z) and d loss / d z_positive = -sigmoid(m): nothing cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from umer1_kernels import checks, contrastive
from umer1_kernels.backends.cpu.operators import operators
from umer1_kernels.contrastive import Block, Rows

CHUNK_LOGITS = 2**24  # logits of one direction that live at a time: 64 MiB of float32


def weighted_loss(
    rows: Rows,
    scale: float | Tensor,
    directions: tuple[str, ...],
    partition: str,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """The loss, and hit [N] bool: the positive beats every negative of the first direction."""
    if not isinstance(scale, Tensor):
        scale = torch.tensor(scale, dtype=rows.weight.dtype)
    inputs = (rows.query, rows.positive, rows.all_query, rows.all_target, scale)
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    loss, hit, *_ = info_nce_loss(
        *inputs,
        rows.self_index,
        rows.label,
        rows.query_id,
        rows.positive_id,
        rows.all_query_id,
        rows.all_target_id,
        rows.weight,
        ",".join(directions),
        partition == "joint",
        reduction,
        # a scalar loss makes its gradient here, where the logits are; "none" in the backward
        differentiable and reduction != "none",
    )
    return loss, hit


@torch.library.custom_op("umer1_kernels::info_nce_loss", mutates_args=())
def info_nce_loss(
    query: Tensor,
    positive: Tensor,
    all_query: Tensor,
    all_target: Tensor,
    scale: Tensor,
    self_index: Tensor,
    label: Tensor,
    query_id: Tensor | None,
    positive_id: Tensor | None,
    all_query_id: Tensor | None,
    all_target_id: Tensor | None,
    weight: Tensor,
    directions: str,
    joint: bool,
    reduction: str,
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, hit [N], and the gradients of the summed loss in the first five arguments.

    A gradient that is not asked for, or is of candidates no direction uses, comes back empty.
    """
    dtype = checks.compute_dtype(query)
    with checks.full_precision(query):
        vectors = (tensor.to(dtype) for tensor in (query, positive, all_query, all_target))
        ids = (query_id, positive_id, all_query_id, all_target_id)
        rows = Rows(*vectors, self_index, label, *ids, weight.to(dtype))
        problem = _Problem(rows, tuple(directions.split(",")), scale.to(dtype).reshape(()), joint)
        loss, *rest = problem.solve(gradients)
        return contrastive.reduce(loss, rows.weight, reduction), *rest


@info_nce_loss.register_fake
def _(query, positive, all_query, all_target, scale, *rest):
    *_, directions, _, reduction, gradients = rest
    dtype = checks.compute_dtype(query)
    used = {name[2] for name in directions.split(",")}

    def like(tensor: Tensor, used: bool = True) -> Tensor:
        return tensor.new_empty(tensor.shape if used and gradients else (0,), dtype=dtype)

    return (
        query.new_empty(query.shape[:1] if reduction == "none" else (), dtype=dtype),
        query.new_empty(query.shape[:1], dtype=torch.bool),
        like(query),
        like(positive),
        like(all_query, "q" in used),
        like(all_target, "t" in used),
        scale.new_empty(() if gradients else (0,), dtype=dtype),
    )


def _save(ctx, inputs, output) -> None:
    tensors, (directions, joint, reduction, _) = inputs[:12], inputs[12:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.shapes = [(tensor.shape, tensor.dtype) for tensor in tensors[:5]]
    ctx.plan = (directions, joint)
    ctx.per_row = reduction == "none"
    ctx.save_for_backward(*(tensors if ctx.per_row else output[2:]))


def _backward(ctx, grad: Tensor, *_):
    if torch.is_grad_enabled():
        raise RuntimeError('info_nce has no second derivative here; use backend="reference"')
    if ctx.per_row:
        *inputs, weight = ctx.saved_tensors
        weight = weight * grad.to(weight.dtype)
        _, _, *gradients = info_nce_loss(*inputs, weight, *ctx.plan, "sum", True)
    else:
        gradients = [gradient * grad for gradient in ctx.saved_tensors]
    results = [
        gradient.to(dtype).reshape(shape) if gradient.numel() else None
        for gradient, (shape, dtype) in zip(gradients, ctx.shapes, strict=True)
    ]
    return *results, *(None,) * 11


info_nce_loss.register_autograd(_backward, setup_context=_save)


@dataclass(slots=True)
class _Gradients:
    """Gradients under way; those of candidates lack the factor `scale` until the end."""

    query: Tensor
    positive: Tensor
    candidates: dict[str, Tensor]  # "q" and "t", those in use
    scale: Tensor


@dataclass(slots=True)
class _Problem:
    rows: Rows
    directions: tuple[str, ...]
    scale: Tensor  # scalar
    joint: bool

    def solve(self, want_gradients: bool) -> tuple[Tensor, ...]:
        rows, names = self.rows, self.directions
        count, dtype = rows.query.shape[0], rows.query.dtype
        sources = {"q": rows.all_query, "t": rows.all_target}
        blocks = contrastive.blocks(rows, names)
        gradients = None
        if want_gradients:
            gradients = _Gradients(
                torch.zeros_like(rows.query),
                torch.zeros_like(rows.positive),
                {side: torch.zeros_like(sources[side]) for side in {name[2] for name in names}},
                torch.zeros((), dtype=dtype),
            )
        loss = torch.zeros(count, dtype=dtype)
        hit = torch.zeros(count, dtype=torch.bool)
        size = max(1, CHUNK_LOGITS // max(block.candidates.shape[0] for block in blocks))
        for begin in range(0, count, size):
            chunk = slice(begin, begin + size)
            loss[chunk], hit[chunk] = self._chunk(chunk, blocks, gradients)
        if gradients is None:
            return loss, hit, *(torch.zeros(0, dtype=dtype) for _ in range(5))
        empty = torch.zeros(0, dtype=dtype)
        candidates = {side: total.mul_(self.scale) for side, total in gradients.candidates.items()}
        return (
            loss,
            hit,
            gradients.query,
            gradients.positive,
            candidates.get("q", empty),
            candidates.get("t", empty),
            gradients.scale,
        )

    def _chunk(
        self, chunk: slice, blocks: list[Block], gradients: _Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Loss and hit of these rows; adds their gradients."""
        rows = self.rows
        query, positive = rows.query[chunk], rows.positive[chunk]
        own = (query * positive).sum(1)
        arguments = [_row_arguments(block, chunk, self.scale) for block in blocks]
        logits = [block.rows[chunk] @ block.candidates.T for block in blocks]
        pools = [operators.nce_row_pool(x, *a) for x, a in zip(logits, arguments, strict=True)]
        best, total = (torch.stack(part) for part in zip(*pools, strict=True))  # [blocks, rows]
        # the difference before the scale multiplies it: near ties keep their digits
        lead = self.scale * (best - own)
        block_margins = lead + total.log()
        margins = block_margins.logsumexp(0, keepdim=True) if self.joint else block_margins
        if gradients is not None:
            share = torch.sigmoid(margins) * (rows.weight[chunk] / len(margins))
            # each block's part of its softmax; no part where no block has a negative
            parts = share * torch.exp(block_margins - margins).nan_to_num(0.0)
            # a total is at least 1, its largest term, unless there is no negative
            coefficients = parts / total.clamp_min(1.0)
            for k, (block, name) in enumerate(zip(blocks, self.directions, strict=True)):
                operators.nce_row_gradient_(logits[k], *arguments[k], best[k], coefficients[k])
                self._add_products(logits[k], block, name, chunk, gradients)
            pull = -share.sum(0)
            gradients.query[chunk] += (self.scale * pull)[:, None] * positive
            gradients.positive[chunk] += (self.scale * pull)[:, None] * query
            gradients.scale += (pull * own).sum()
        return softplus(margins).mean(0), lead[0] < 0

    def _add_products(
        self, logit_grad: Tensor, block: Block, name: str, chunk: slice, gradients: _Gradients
    ) -> None:
        """One direction's two products; the first gives the scale's gradient for free."""
        by_rows = logit_grad @ block.candidates
        gradients.scale += (by_rows * block.rows[chunk]).sum()
        side = gradients.query if name[0] == "q" else gradients.positive
        side[chunk] += by_rows.mul_(self.scale)
        gradients.candidates[name[2]].addmm_(logit_grad.T, block.rows[chunk])


def _row_arguments(block: Block, chunk: slice, scale: Tensor) -> tuple:
    row_id = None if block.row_id is None else block.row_id[chunk]
    return scale, block.excluded[chunk], row_id, block.candidate_id
