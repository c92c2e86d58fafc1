"""What the kernel of small contrastive batches takes: shapes that stay on the chip, and which options.

Legend: N queries, M targets. See csrc/common/dual_schedule.h, whose numbers these are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import distributed

MOST_ROWS = 1408  # N and M
MULTIPLE = 8  # of the dimension: vectors are read 16 bytes at a time
TILE = 128  # rows and columns of a tile of logits
TILE_BYTES = TILE * TILE * 4
RING_BYTES = 3 * 32 * 1024  # of operands on their way, at least


def beyond(tensors: tuple[Tensor, ...], arguments: dict | None) -> str | None:
    """What of a call of info_nce or dual_info_nce the kernel does not take, or None.

    Args:
        tensors: query, target; or those of gen and of disc.
        arguments: the other arguments, where they are known.
    """
    for tensor in tensors:
        if tensor.dim() != 2:
            continue  # refused by name elsewhere
        rows, dimension = tensor.shape
        if rows > MOST_ROWS:
            return f"its kernel takes up to {MOST_ROWS} queries and targets, not {rows}"
        if dimension % MULTIPLE:
            return f"its kernel takes dimensions that are multiples of {MULTIPLE}, not {dimension}"
    align = bool(arguments and arguments.get("align"))
    return _options(arguments or {}) or _too_many_tiles(tensors, align)


def tiles(queries: int, targets: int, pairs: int) -> int:
    """Tiles of logits of `pairs` products."""
    return pairs * -(-queries // TILE) * -(-targets // TILE)


def capacity(multiprocessors: int, shared_bytes: int) -> int:
    """Tiles of logits that stay on a GPU with this much shared memory per block."""
    return multiprocessors * max(0, (shared_bytes - RING_BYTES) // TILE_BYTES)


def _options(arguments: dict) -> str | None:
    directions = tuple(arguments.get("directions", ()))
    for direction in directions:
        if direction not in ("q2t", "t2q"):
            return f"its kernel has the directions q2t and t2q, not {direction}"
    if "t2q" in directions and arguments.get("labels") is not None:
        return "its kernel takes labels with q2t alone: two rows may share a target"
    group = arguments.get("group")
    if group is not None and distributed.rank_and_size(group)[1] > 1:
        return f"its kernel runs in one process, not in {distributed.rank_and_size(group)[1]}"
    return None


def _too_many_tiles(tensors: tuple[Tensor, ...], align: bool) -> str | None:
    # a compiler's tensors have no GPU to look at; the operator itself looks again
    if torch.compiler.is_compiling() or not torch.cuda.is_available() or not tensors[0].is_cuda:
        return None
    device = torch.cuda.get_device_properties(tensors[0].device)
    shared = device.shared_memory_per_block_optin
    pairs = 4 if align else len(tensors) // 2
    wanted = tiles(tensors[0].shape[0], tensors[1].shape[0], pairs)
    room = capacity(device.multi_processor_count, shared)
    if wanted <= room:
        return None
    return (
        f"the logits are {wanted} tiles of {TILE} x {TILE}, and {device.multi_processor_count} "
        f"multiprocessors with {shared} bytes of shared memory keep {room}"
    )
