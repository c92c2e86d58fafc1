"""Tile sizes as data, one table per architecture. Nothing is tuned at run time."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch


class ProductTile(NamedTuple):
    """How product_kernel cuts its matrices."""

    block_m: int
    block_n: int
    block_k: int
    group: int  # row tiles that share the right matrix
    warps: int
    stages: int
    descriptors: bool  # operands by the tensor memory accelerator; plain pointers otherwise


class RowTile(NamedTuple):
    """What one program of a kernel that walks over rows takes at a time."""

    rows: int
    columns: int
    warps: int
    step: int = 1  # rows read at a time by a program that walks down its rows


class AttendTile(NamedTuple):
    """What one program of attend_kernel holds: query rows, and keys at a time."""

    rows: int
    keys: int
    warps: int
    stages: int


# role -> tile, for 16-bit inputs; "float32" for exact float32 products in any role.
# sm_80 serves every architecture without a table of its own: 64 KiB of shared memory, no TMA.
PRODUCT = {
    "sm_80": {
        "logits": ProductTile(128, 128, 32, 8, 8, 4, False),
        "multiply": ProductTile(128, 128, 32, 8, 8, 4, False),
        "accumulate": ProductTile(128, 128, 32, 8, 8, 4, False),
        "float32": ProductTile(128, 128, 16, 8, 8, 3, False),
    },
    "sm_90": {
        "logits": ProductTile(128, 256, 64, 8, 8, 4, True),
        "multiply": ProductTile(128, 256, 64, 8, 8, 4, True),
        "accumulate": ProductTile(128, 256, 64, 8, 8, 4, True),
        "float32": ProductTile(128, 128, 16, 8, 8, 3, False),
    },
    "sm_100": {
        "logits": ProductTile(128, 256, 64, 8, 8, 4, True),
        "multiply": ProductTile(128, 128, 64, 8, 8, 4, True),
        "accumulate": ProductTile(128, 128, 64, 8, 8, 4, True),
        "float32": ProductTile(128, 128, 16, 8, 8, 3, False),
    },
    # the interpreter: small, so that small matrices have edges and several tiles
    "cpu": {
        "logits": ProductTile(32, 64, 64, 2, 4, 2, True),
        "multiply": ProductTile(32, 64, 64, 2, 4, 2, True),
        "accumulate": ProductTile(32, 64, 64, 2, 4, 2, True),
        "float32": ProductTile(32, 64, 64, 2, 4, 2, False),
    },
}

# Rows of a shared prefix fill 64 query rows; one row's heads, 16. Never fewer where there are fewer:
# with another tile the sums would go in another order. Wide numbers (32 bits and more) take more room.
ATTEND = {
    "sm_80": {"shared": AttendTile(64, 64, 8, 2), "own": AttendTile(16, 64, 4, 2)},
    "sm_90": {"shared": AttendTile(64, 64, 4, 3), "own": AttendTile(16, 64, 4, 3)},
    "sm_100": {"shared": AttendTile(64, 64, 4, 3), "own": AttendTile(16, 64, 4, 3)},
    "cpu": {"shared": AttendTile(64, 32, 4, 1), "own": AttendTile(16, 32, 4, 1)},
}
WIDE_KEYS, WIDE_WARPS = 16, 8

# kernel -> tile. One row per program streams best; rows that need the same candidates' ids or pools
# share them.
ROW = {
    "cuda": {
        "row_pools": RowTile(rows=1, columns=4096, warps=8),
        "row_pools_short": RowTile(rows=4, columns=1024, warps=8),  # for up to this many columns
        "row_pools_ids": RowTile(rows=2, columns=2048, warps=8),
        "column_pools": RowTile(rows=64, columns=1024, warps=8, step=4),
        "gradient": RowTile(rows=2, columns=2048, warps=8),
        "reward": RowTile(rows=1, columns=256, warps=4),
        "gather": RowTile(rows=1, columns=1024, warps=4),
        "sampler": RowTile(rows=1, columns=4096, warps=8),
    },
    # the interpreter: its time goes by steps, not by numbers
    "cpu": {
        "row_pools": RowTile(rows=16, columns=128, warps=4),
        "row_pools_short": RowTile(rows=32, columns=64, warps=4),
        "row_pools_ids": RowTile(rows=16, columns=128, warps=4),
        "column_pools": RowTile(rows=32, columns=128, warps=4, step=16),
        "gradient": RowTile(rows=32, columns=128, warps=4),
        "reward": RowTile(rows=1, columns=64, warps=4),
        "gather": RowTile(rows=1, columns=64, warps=4),
        "sampler": RowTile(rows=1, columns=64, warps=4),
    },
}

# `pools` and `gradient` make the logits of this many numbers at a time (256 MiB of float32), but
# never fewer rows than fill the matrix units.
CHUNK_LOGITS = 2**26
CHUNK_ROWS = 256


def product_tile(role: str, tensor: torch.Tensor) -> ProductTile:
    table = PRODUCT[architecture(tensor.device)]
    return table["float32" if tensor.dtype == torch.float32 else role]


def row_tile(kernel: str, tensor: torch.Tensor) -> RowTile:
    return ROW["cpu" if architecture(tensor.device) == "cpu" else "cuda"][kernel]


def attend_tile(shared: bool, group: int, tensor: torch.Tensor) -> AttendTile:
    """`group`: query heads of one key-value head."""
    tile = ATTEND[architecture(tensor.device)]["shared" if shared else "own"]
    if tensor.element_size() > 2:
        tile = tile._replace(keys=WIDE_KEYS, warps=WIDE_WARPS, stages=1)
    return tile if group <= tile.rows else tile._replace(rows=1 << (group - 1).bit_length())


@functools.cache
def architecture(device: torch.device) -> str:
    """The name of the table for this device."""
    if device.type != "cuda":
        return "cpu"
    major, _ = torch.cuda.get_device_capability(device)
    # 12.x has Blackwell's number but neither its matrix unit nor its shared memory
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


@functools.cache
def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def chunk_rows(rows: int, columns: int) -> int:
    """How many of these rows have their logits in memory at a time."""
    return min(max(rows, 1), max(CHUNK_LOGITS // max(columns, 1) // CHUNK_ROWS, 1) * CHUNK_ROWS)
