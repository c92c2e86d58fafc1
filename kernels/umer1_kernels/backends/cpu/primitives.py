"""The execution protocol on the CPU: bfloat16 by the fused operators, the others by aten's products.

bfloat16 on a processor without AVX512-BF16 is widened to float32 chunk by chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.backends.cpu.operators import operators
from umer1_kernels.execution.protocol import Block, Pools

LOGITS_BYTES = 2**26  # of logits in memory, where a product is made for its pools alone
PRODUCT_BYTES = 2**24  # of a rounded product on its way into a float32 sum
SMALL_LOGITS = 2**16  # up to here bfloat16 gradients of logits stay in float32: exactness is free
SAFE_EXPONENT = 60.0  # a kept exponential is below e^-60 only where it does not count


def fused(block: Block) -> bool:
    """Whether this block goes through the fused bfloat16 operators."""
    logits = block.rows.shape[0] * block.candidates.shape[0]
    return (
        block.rows.dtype == torch.bfloat16
        and logits > SMALL_LOGITS
        and operators.bf16_softmax_available()
    )


class CpuPrimitives:
    """See execution.protocol.Primitives."""

    def pools(
        self, block: Block, *, columns: bool = False, moment: bool = False
    ) -> tuple[Pools, Pools | None]:
        if fused(block):
            found = operators.bf16_pools(*_arguments(block), columns, moment)
            return _pools(found, columns, moment)
        size = max(1, LOGITS_BYTES // (4 * block.candidates.shape[0]))
        parts = [
            self.keep(block.chunk(begin, begin + size), columns=columns, moment=moment)
            for begin in range(0, max(block.rows.shape[0], 1), size)  # no rows: one empty part
        ]
        rows = Pools(
            *(None if p[0] is None else torch.cat(p) for p in zip(*(k.rows for k in parts)))
        )
        total = parts[0].columns
        for part in parts[1:] if columns else ():
            total = merge_pools(total, part.columns, block.scale)
        return rows, total

    def keep(self, block: Block, *, columns: bool = False, moment: bool = False):
        if fused(block):
            shape = (block.rows.shape[0], block.candidates.shape[0])
            exponentials = torch.empty(shape, dtype=torch.bfloat16)
            *found, slab_best = operators.bf16_keep(
                *_arguments(block), columns, moment, exponentials
            )
            return _KeptExponentials(
                block, *_pools(found, columns, moment), exponentials, slab_best
            )
        logits = _logits(block)
        rows = operators.row_pools(logits, *_arguments(block)[2:], moment)
        column = operators.column_pools(logits, *_arguments(block)[2:]) if columns else None
        return _KeptLogits(block, _row_pools(rows, moment), column and Pools(*column), logits)

    def gradient(
        self, block: Block, rows: Pools, row, label, columns=None, column=None, slope=None
    ) -> Tensor:
        column_best = None if column is None else columns.best
        if not fused(block):
            logits = _logits(block)
            operators.softmax_gradient_(
                logits, *_arguments(block)[2:], rows.best, row, label, slope, column_best, column
            )
            return _rounded(logits, block)
        out = torch.empty(block.rows.shape[0], block.candidates.shape[0], dtype=torch.bfloat16)
        operators.bf16_gradient_(
            *_arguments(block), rows.best, row, label, slope, column_best, column, out
        )
        return out

    def multiply(self, left: Tensor, right: Tensor, *, live=None, out=None) -> Tensor:
        if left.dtype != right.dtype:
            product = (left @ right.to(left.dtype)).to(right.dtype)
            return product if out is None else out.copy_(product)
        return torch.mm(left, right) if out is None else torch.mm(left, right, out=out)

    def transpose_multiply(self, left: Tensor, right: Tensor, *, live=None) -> Tensor:
        return self.multiply(left.T, right)

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, *, live=None) -> None:
        if left.dtype == total.dtype:
            total.addmm_(left.T, right.to(total.dtype))
            return
        size = max(1, PRODUCT_BYTES // (right.element_size() * right.shape[1]))
        for begin in range(0, total.shape[0], size):
            part = slice(begin, begin + size)
            total[part] += left[:, part].T @ right

    def compact(self, mask: Tensor) -> tuple[Tensor, Tensor | None, int]:
        index = mask.nonzero().squeeze(1)
        return index, None, index.shape[0]


@dataclass(slots=True)
class _KeptLogits:
    block: Block
    rows: Pools
    columns: Pools | None
    logits: Tensor

    def gradient(self, row: Tensor, label: Tensor, column: Tensor | None = None) -> Tensor:
        best = None if column is None else self.columns.best
        operators.softmax_gradient_(
            self.logits, *_arguments(self.block)[2:], self.rows.best, row, label, None, best, column
        )
        return _rounded(self.logits, self.block)


@dataclass(slots=True)
class _KeptExponentials:
    block: Block
    rows: Pools
    columns: Pools | None
    exponentials: Tensor  # [R, C]: exp(scale (x - slab_best)), 0 at what is no negative
    slab_best: Tensor  # [R, slabs]

    def gradient(self, row: Tensor, label: Tensor, column: Tensor | None = None) -> Tensor:
        if column is not None and not self._cover(column):
            primitives = CpuPrimitives()
            return primitives.gradient(self.block, self.rows, row, label, self.columns, column)
        best = None if column is None else self.columns.best
        operators.bf16_kept_gradient_(
            self.exponentials, self.block.scale, self.block.excluded, self.slab_best,
            self.rows.best, row, label, best, column,
        )  # fmt: skip
        return self.exponentials

    def _cover(self, column: Tensor) -> bool:
        """Whether what underflowed relative to its row is also nothing relative to its column."""
        used = column != 0
        if not used.any():
            return True
        sign = torch.where(self.block.scale < 0, -1.0, 1.0)
        lowest = (self.columns.best[used] * sign).min()
        return bool(
            ((self.slab_best * sign).max() - lowest) * self.block.scale.abs() < SAFE_EXPONENT
        )


def merge_pools(one: Pools, other: Pools, scale: Tensor) -> Pools:
    """Pools over both sets of negatives."""
    sign = torch.where(scale < 0, -1.0, 1.0).to(one.best.dtype)
    best = torch.maximum(one.best * sign, other.best * sign) * sign
    parts = [
        # a pool without negatives adds nothing; infinities have no difference
        torch.where(pool.total != 0, pool.total * torch.exp(scale * (pool.best - best)), 0.0)
        for pool in (one, other)
    ]
    return Pools(best, parts[0] + parts[1])


def _rounded(logit_grad: Tensor, block: Block) -> Tensor:
    """In the dtype of the rows, unless the block is small."""
    small = logit_grad.numel() <= SMALL_LOGITS
    return logit_grad if small else logit_grad.to(block.rows.dtype)


def _logits(block: Block) -> Tensor:
    dtype = checks.compute_dtype(block.rows)
    return block.rows.to(dtype) @ block.candidates.to(dtype).T


def _arguments(block: Block) -> tuple:
    return (
        block.rows, block.candidates, block.scale, block.excluded, block.row_id, block.candidate_id,
    )  # fmt: skip


def _row_pools(found, moment: bool) -> Pools:
    return Pools(found[0], found[1], found[2] if moment else None)


def _pools(found, columns: bool, moment: bool) -> tuple[Pools, Pools | None]:
    return _row_pools(found, moment), Pools(found[3], found[4]) if columns else None
