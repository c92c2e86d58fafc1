"""Matrices whose rows begin at 16-byte boundaries, so that kernels read and write 16 bytes."""

from __future__ import annotations

import torch
from torch import Tensor

ROW_BYTES = 128  # rows of new buffers begin at multiples of this: 16 numbers of any dtype


def empty_rows(like: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """[rows, columns] without contents; a view of a buffer with padded rows."""
    step = ROW_BYTES // dtype.itemsize
    width = -(-max(columns, 1) // step) * step
    return like.new_empty(rows, width, dtype=dtype)[:, :columns]


def aligned_rows(matrix: Tensor) -> Tensor:
    """The matrix itself if its rows are contiguous and begin at 16-byte boundaries, else a copy."""
    if is_aligned(matrix):
        return matrix
    return empty_rows(matrix, *matrix.shape, matrix.dtype).copy_(matrix)


def is_aligned(matrix: Tensor) -> bool:
    size = matrix.element_size()
    return (
        (matrix.stride(1) == 1 or matrix.shape[1] == 1)
        and matrix.stride(0) >= matrix.shape[1]
        and matrix.stride(0) * size % 16 == 0
        and matrix.data_ptr() % 16 == 0
    )
