"""The execution protocol on a CUDA device: cuBLAS and Triton, no host synchronisation.

Legend: R rows, C candidates, D dimension. `live` is the device's count of rows that matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from umer1_kernels.backends.triton import compaction, products, tables
from umer1_kernels.backends.triton.buffers import aligned_rows, empty_rows
from umer1_kernels.backends.triton.column_pools import column_pools
from umer1_kernels.backends.triton.gradient import logit_gradient
from umer1_kernels.backends.triton.launch import on_device
from umer1_kernels.backends.triton.row_pools import empty_pools, row_pools
from umer1_kernels.execution.protocol import Block, Pools


class TritonPrimitives:
    """`execution.protocol.Primitives`; see there."""

    @torch.no_grad()
    def pools(
        self, block: Block, *, columns: bool = False, moment: bool = False
    ) -> tuple[Pools, Pools | None]:
        with on_device(block.rows):
            block = _prepared(block)
            rows, of_columns = empty_pools(block, moment), _column_pools(block, columns)
            workspace = _workspace(block)
            for begin, end in _chunks(block):
                part = products.logits(
                    block.rows[begin:end],
                    block.candidates,
                    live=block.live,
                    first_row=begin,
                    out=workspace[: end - begin],
                )
                row_pools(part, block, rows, begin)
                if of_columns is not None:
                    column_pools(part, block, of_columns, begin)
            return rows, of_columns

    @torch.no_grad()
    def keep(self, block: Block, *, columns: bool = False, moment: bool = False) -> KeptLogits:
        with on_device(block.rows):
            block = _prepared(block)
            rows, of_columns = empty_pools(block, moment), _column_pools(block, columns)
            logits = products.logits(block.rows, block.candidates, live=block.live)
            row_pools(logits, block, rows)
            if of_columns is not None:
                column_pools(logits, block, of_columns)
            return KeptLogits(block, logits, rows, of_columns)

    @torch.no_grad()
    def gradient(
        self,
        block: Block,
        rows: Pools,
        row: Tensor,
        label: Tensor,
        columns: Pools | None = None,
        column: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Tensor:
        with on_device(block.rows):
            block = _prepared(block)
            count, width = block.rows.shape[0], block.candidates.shape[0]
            result = empty_rows(block.rows, count, width, block.rows.dtype)
            in_place = result.dtype == block.scale.dtype
            workspace = None if in_place else _workspace(block)
            for begin, end in _chunks(block):
                out = result[begin:end]
                logits = products.logits(
                    block.rows[begin:end],
                    block.candidates,
                    live=block.live,
                    first_row=begin,
                    out=out if in_place else workspace[: end - begin],
                )
                logit_gradient(logits, block, rows, row, label, columns, column, slope, out, begin)
            return result

    @torch.no_grad()
    def multiply(self, left: Tensor, right: Tensor, *, live=None, out=None) -> Tensor:
        with on_device(left):
            return products.multiply(left, right, live=live, out=out)

    @torch.no_grad()
    def transpose_multiply(self, left: Tensor, right: Tensor, *, live=None) -> Tensor:
        with on_device(left):
            return products.transpose_multiply(left, right, live=live)

    @torch.no_grad()
    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, *, live=None) -> None:
        with on_device(left):
            products.accumulate(total, left, right, live=live)

    def compact(self, mask: Tensor) -> tuple[Tensor, Tensor | None, int]:
        with on_device(mask):
            return compaction.compact(mask)


@dataclass(slots=True)
class KeptLogits:
    """`execution.protocol.Kept`: the logits in float32."""

    block: Block
    logits: Tensor | None  # [R, C]; gone after the gradient
    rows: Pools
    columns: Pools | None

    @torch.no_grad()
    def gradient(
        self, row: Tensor, label: Tensor, column: Tensor | None = None, slope: Tensor | None = None
    ) -> Tensor:
        if self.logits is None:
            raise RuntimeError("the gradient of kept logits was already taken")
        logits, self.logits = self.logits, None
        with on_device(logits):
            out = logits
            if self.block.rows.dtype != logits.dtype:
                out = empty_rows(logits, *logits.shape, self.block.rows.dtype)
            logit_gradient(
                logits, self.block, self.rows, row, label, self.columns, column, slope, out
            )
            return out


def _prepared(block: Block) -> Block:
    """The block as kernels read it: vectors without gaps, and for our own product aligned rows."""
    vectors = (block.excluded, block.row_id, block.candidate_id)
    vectors = (None if vector is None else vector.contiguous() for vector in vectors)
    sides = (block.rows, block.candidates)
    if block.live is not None:
        sides = (aligned_rows(side) for side in sides)  # once, not for every chunk
    return Block(*sides, block.scale, *vectors, block.live)


def _column_pools(block: Block, wanted: bool) -> Pools | None:
    width = block.candidates.shape[0]
    if not wanted:
        return None
    return Pools(block.scale.new_empty(width), block.scale.new_empty(width))


def _workspace(block: Block) -> Tensor:
    """Room for the logits of one chunk."""
    count, width = block.rows.shape[0], block.candidates.shape[0]
    return empty_rows(block.rows, tables.chunk_rows(count, width), width, block.scale.dtype)


def _chunks(block: Block) -> list[tuple[int, int]]:
    count = block.rows.shape[0]
    size = tables.chunk_rows(count, block.candidates.shape[0])
    return [(begin, min(begin + size, count)) for begin in range(0, count, size)]
