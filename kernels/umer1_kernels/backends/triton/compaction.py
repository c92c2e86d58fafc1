"""Positions of the rows that count, found on the device: no host ever waits for their number."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton.launch import PINNED

BLOCK = 1024


def compact(mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """bool [T] -> (int64 [T]: positions that count, in order, then 0; int32 how many; T)."""
    count = mask.shape[0]
    index = torch.empty(count, dtype=torch.int64, device=mask.device)
    if count == 0:
        return index, torch.zeros((), dtype=torch.int32, device=mask.device), 0
    mask = mask.contiguous()
    running = torch.cumsum(mask, 0, dtype=torch.int32)
    place_kernel[(-(-count // BLOCK),)](mask, running, index, count, BLOCK=BLOCK, **PINNED)
    return index, running[-1], count


@triton.jit(
    do_not_specialize=["count"], do_not_specialize_on_alignment=["mask", "running", "index"]
)
def place_kernel(mask, running, index, count, BLOCK: tl.constexpr):
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = position < count
    counts = tl.load(mask + position, mask=inside, other=0) != 0
    before = tl.load(running + position, mask=inside, other=0)
    live = tl.load(running + count - 1)
    # every place is written once: those that count in front, the others' zeros behind
    place = tl.where(counts, before - 1, live + position - before)
    tl.store(index + place, tl.where(counts, position, 0).to(tl.int64), mask=inside)
