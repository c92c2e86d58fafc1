"""Both directions of a contrastive loss over a process group, from one product a process.

Each process has the logits of its own queries against all targets. The pools of a target over all
queries are the sum of what the processes have of its column; so neither queries nor logits travel,
only targets, column pools and column coefficients.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from umer1_kernels import checks, contrastive, distributed
from umer1_kernels.execution.backends import primitives_of
from umer1_kernels.execution.contrastive import Problem, pair_gradients, pair_terms
from umer1_kernels.execution.protocol import Pools
from umer1_kernels.execution.terms import own_logits


def distributed_pair(
    backend: str, problem: Problem, reduction: str, group
) -> tuple[Tensor, Tensor]:
    """The loss of this process's rows and hit [N]; `problem.target` holds all processes' targets.

    One product forward and, as only the backward knows every process's upstream gradient, three there.
    """
    return _Pair.apply(
        problem.query, problem.target, problem.scale, problem, reduction, backend, group
    )


class _Pair(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, target, scale, problem: Problem, reduction: str, backend: str, group):
        block = problem.block("q2t")
        with checks.full_precision(query):
            rows, columns = primitives_of(backend).pools(block, columns=True)
            columns = _reduce(columns, problem.scale, group)
            own = own_logits(query, target, problem.label)
            found = pair_terms(problem, rows, columns, own)
        ctx.save_for_backward(query, target, scale, own, *rows[:2], *columns[:2])
        ctx.problem, ctx.backend, ctx.group = problem, backend, group
        ctx.mark_non_differentiable(found.hit)
        return contrastive.reduce(found.loss, problem.weight, reduction), found.hit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _):
        query, target, scale, own, *pools = ctx.saved_tensors
        problem, rows, columns = ctx.problem, Pools(*pools[:2]), Pools(*pools[2:])
        problem.query, problem.target, problem.scale = query, target, scale
        with checks.full_precision(query):
            weighted = problem.scaled(grad)
            found = pair_terms(weighted, rows, columns, own)
            column = torch.zeros_like(columns.total)
            column[problem.own_columns()] = found.coefficients[problem.directions.index("t2q")]
            # every column belongs to one process: the sum is that process's coefficient
            dist.all_reduce(column, group=ctx.group)
            made = pair_gradients(
                primitives_of(ctx.backend), weighted, found, rows, columns, column
            )
        return made.query, made.target, made.scale, None, None, None, None


def _reduce(columns: Pools, scale: Tensor, group) -> Pools:
    """Column pools over the queries of all processes."""
    sign = torch.where(scale < 0, -1.0, 1.0).to(columns.best.dtype)
    best = columns.best * sign
    dist.all_reduce(best, dist.ReduceOp.MAX, group=group)
    best = best * sign
    shift = torch.where(columns.total != 0, torch.exp(scale * (columns.best - best)), 0.0)
    total = columns.total * shift
    return Pools(best, distributed.sum_over(total, group))
