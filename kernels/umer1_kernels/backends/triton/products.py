"""The three products: logits, and the two that carry a gradient back.

Without a device-side row count they go through cuBLAS; with one, through product_kernel, which
never makes what only dead rows would use. 16-bit inputs give float32 sums, rounded once at most.
float32 inputs are multiplied in float32 even where TF32 is switched on for other products.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.buffers import aligned_rows, empty_rows, is_aligned
from umer1_kernels.backends.triton.launch import PINNED
from umer1_kernels.backends.triton.product_kernel import (
    ALL,
    DEPTH,
    ROWS,
    merge_parts_kernel,
    product_kernel,
)

HALVES = (torch.bfloat16, torch.float16)
MERGED_ROWS = 16  # of one program that adds up parts of sums


def logits(rows: Tensor, candidates: Tensor, *, live=None, first_row: int = 0, out=None) -> Tensor:
    """rows [R, D] @ candidates [C, D].T -> [R, C], float32 (float64); rows of 16 bytes' multiples.

    Args:
        live: int32 scalar on the device: rows from `live - first_row` on stay unwritten.
        out: where to put them, from `empty_rows`.
    """
    dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
    if out is None:
        out = empty_rows(rows, rows.shape[0], candidates.shape[0], dtype)
    if _by_kernel(rows, live):
        return _product(
            "logits",
            rows,
            candidates,
            out,
            live,
            first_row,
            right_transposed=True,
            padded_out=True,
        )
    return _library_product(rows, candidates.T, out)


def multiply(left: Tensor, right: Tensor, *, live=None, out=None) -> Tensor:
    """left [R, C] @ right [C, D] -> [R, D] in the dtype of right; dead rows are 0."""
    if out is None:
        out = right.new_empty(left.shape[0], right.shape[1])
    if _by_kernel(left, live):
        return _product("multiply", left, right, out, live, zero_dead=True)
    if live is not None:  # float64, which only checks need: multiplied, then dropped
        return _rounded_product(left, right, out).masked_fill_(_dead(left, live), 0.0)
    return _rounded_product(left, right, out)


def transpose_multiply(left: Tensor, right: Tensor, *, live=None) -> Tensor:
    """left [R, C].T @ right [R, D] over the live rows -> [C, D] in the dtype of right."""
    out = right.new_empty(left.shape[1], right.shape[1])
    if _by_kernel(left, live):
        return _product("accumulate", left, right, out, live, left_transposed=True)
    return _rounded_product(*_live_operands(left.T, right, live), out)


def accumulate(total: Tensor, left: Tensor, right: Tensor, *, live=None) -> None:
    """total [C, D] float32 (float64) += left [R, C].T @ right [R, D] over the live rows."""
    if _by_kernel(left, live):
        options = {"left_transposed": True, "add": True}
        _product("accumulate", left, right, total, live, **options)
        return
    left, right = _live_operands(left.T, right, live)
    if left.dtype not in HALVES:
        total.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _rounded_product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """left @ right in the dtype of `out`, summed in float32 whatever cuBLAS is allowed to do."""
    if out.dtype not in HALVES or _fills_device(out):
        return torch.mm(left, right, out=out)
    # too few tiles: cuBLAS may split the sum and add its parts in 16 bits
    wide = out.new_empty(out.shape, dtype=torch.float32)
    return out.copy_(_library_product(left, right, wide))


def _fills_device(out: Tensor) -> bool:
    tiles = (out.shape[0] // 128) * (out.shape[1] // 128)
    return out.is_cuda and tiles >= 2 * tables.multiprocessors(out.device)


def _library_product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    if left.dtype not in HALVES:
        return torch.mm(left, right, out=out)
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left.float(), right.float(), out=out)  # interpreted kernels' tests


def _by_kernel(left: Tensor, live: Tensor | None) -> bool:
    if left.dtype == torch.float64:
        return False
    if left.dtype == torch.float32 and left.is_cuda:
        # cuBLAS would round to TF32 here
        if torch.backends.cuda.matmul.fp32_precision == "tf32":
            return True
    return live is not None


def _live_operands(left: Tensor, right: Tensor, live: Tensor | None) -> tuple[Tensor, Tensor]:
    """left [C, R] and right [R, D] with 0 where rows are dead, whatever these hold."""
    if live is None:
        return left, right
    dead = _dead(right, live)
    return left.masked_fill(dead.T, 0.0), right.masked_fill(dead, 0.0)


def _dead(left: Tensor, live: Tensor) -> Tensor:
    """bool [R, 1]"""
    return (torch.arange(left.shape[0], device=left.device) >= live)[:, None]


def _product(
    role: str,
    left: Tensor,
    right: Tensor,
    out: Tensor,
    live: Tensor | None,
    first_row: int = 0,
    *,
    left_transposed: bool = False,
    right_transposed: bool = False,
    zero_dead: bool = False,
    add: bool = False,  # to `out`
    padded_out: bool = False,  # out is from `empty_rows`
) -> Tensor:
    """out [M, N] = left [M, K] @ right [K, N]; the operands as they are stored."""
    rows, depth = left.shape[::-1] if left_transposed else left.shape
    columns = right.shape[0 if right_transposed else 1]
    if rows == 0 or columns == 0:
        return out
    if depth == 0:
        return out if add else out.zero_()
    if not left.is_cuda and left.dtype == torch.bfloat16:
        # the interpreter multiplies bfloat16 wrongly and rounds to it downwards
        wide = out.float()
        options = {
            "left_transposed": left_transposed,
            "right_transposed": right_transposed,
            "zero_dead": zero_dead,
            "add": add,
        }
        left, right = left.float(), right.float()
        return out.copy_(_product(role, left, right, wide, live, first_row, **options))
    if out.stride(1) != 1 and columns > 1:
        raise ValueError(f"out has strides {out.stride()}; its rows must be contiguous")
    left, right = aligned_rows(left), aligned_rows(right)
    tile = tables.product_tile(role, left)
    vector = 16 // left.element_size()
    row_sizes = (rows if left_transposed else depth, depth if right_transposed else columns)
    even_in = all(size % vector == 0 for size in row_sizes)
    even_out = padded_out or (columns % vector == 0 and out.stride(0) % vector == 0)
    if tile.descriptors:
        operands = (
            _descriptor(left, tile.block_m, tile.block_k, left_transposed),
            _descriptor(right, tile.block_k, tile.block_n, right_transposed),
        )
    else:
        operands = (left, right)
    tiles = -(-rows // tile.block_m) * -(-columns // tile.block_n)
    programs = tables.multiprocessors(left.device)
    live_counts = ALL if live is None else DEPTH if left_transposed else ROWS
    # few live rows make few tiles of a vocabulary's depth
    split = zero_dead and live is not None
    parts = None
    if split:
        parts = left.new_empty(programs, tile.block_m, tile.block_n, dtype=torch.float32)
    blocks = {
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP": tile.group,
    }
    product_kernel[(programs if split else min(tiles, programs),)](
        *operands,
        out,
        parts,
        live,
        first_row,
        rows,
        columns,
        depth,
        left.stride(0),
        right.stride(0),
        out.stride(0),
        LEFT_TRANSPOSED=left_transposed,
        RIGHT_TRANSPOSED=right_transposed,
        LIVE=live_counts,
        ACCUMULATE=add,
        ZERO_DEAD=zero_dead and live is not None,
        SPLIT=split,
        DESCRIPTORS=tile.descriptors,
        EVEN_IN=even_in,
        EVEN_OUT=even_out and is_aligned(out),
        VECTOR=vector,
        **blocks,
        num_warps=tile.warps,
        **PINNED,
        num_stages=tile.stages,
    )
    if split and programs > 1:
        # tiles are split only where two parts of each fit
        merge_parts_kernel[(min(tiles, programs // 2), tile.block_m // MERGED_ROWS)](
            parts, programs, out, live, first_row, rows, columns, depth, out.stride(0),
            STRIP=MERGED_ROWS, **blocks, num_warps=tile.warps, **PINNED,
        )  # fmt: skip
    return out


def _descriptor(matrix: Tensor, rows: int, columns: int, transposed: bool) -> TensorDescriptor:
    """Of tiles [rows, columns] of the matrix, or of its transpose."""
    block = [columns, rows] if transposed else [rows, columns]
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.stride(0), 1], block)
