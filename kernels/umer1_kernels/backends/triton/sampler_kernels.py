"""The next token of each row of logits: pools of fixed blocks, then a search among the blocks.

Legend: B rows, V tokens, N blocks of BLOCK tokens. A block is known by its largest logit, that one's
token and its sum of exponentials relative to it; the token is found in the block where the cumulative
sum passes u * total, and only that block is read again. Rows with top-k or top-p first get a cut
(sampler_cut.py). Sums over blocks are made in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from umer1_kernels.backends.triton import tables
from umer1_kernels.backends.triton.launch import PINNED, on_device
from umer1_kernels.backends.triton.sampler_blocks import (
    factor_of,
    largest_of,
    logits_of,
    weights_of,
)
from umer1_kernels.backends.triton.sampler_cut import cut_kernel, has_cut, is_kept, kept_kernel
from umer1_kernels.reference.sampler import FIRST, GOLDEN, SECOND

ADDED, TIMES, TIMES_AGAIN = tl.constexpr(GOLDEN), tl.constexpr(FIRST), tl.constexpr(SECOND)
MOST_TOKENS = 2**24  # the pools of all blocks fit a program


def sample(
    logits: Tensor,
    seed: Tensor,
    step: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    forced: Tensor,
    truncated: bool,
) -> tuple[Tensor, Tensor]:
    rows, size = logits.shape
    if size > MOST_TOKENS:
        raise ValueError(f"logits has {size} tokens; the triton backend takes up to {MOST_TOKENS}")
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    tile = tables.row_tile("sampler", logits)
    blocks = triton.cdiv(size, tile.columns)
    best, total = (logits.new_empty(rows, blocks, dtype=torch.float32) for _ in range(2))
    first = seed.new_empty(rows, blocks, dtype=torch.int32)
    # of rows without a cut neither is read
    cut = seed.new_empty(rows, 2 if truncated else 0, dtype=torch.int32)
    kept = logits.new_empty(rows, blocks if truncated else 0, dtype=torch.float64)
    token, logprob = torch.empty_like(seed), logits.new_empty(rows, dtype=torch.float32)
    settings = [value.contiguous() for value in (temperature, top_p, top_k)]
    meta = {"BLOCK": tile.columns, "num_warps": tile.warps, **PINNED}
    pools, every = (best, total, blocks), {"BLOCKS": triton.next_power_of_2(blocks)}
    if rows == 0:
        return token, logprob
    with on_device(logits):
        row = (logits, logits.stride(0), size)
        pool_kernel[(rows, blocks)](*row, settings[0], best, total, first, blocks, **meta)
        if truncated:
            cut_kernel[(rows,)](*row, *settings, *pools, cut, **meta, **every)
            kept_kernel[(rows, blocks)](*row, *settings, *pools, cut, kept, **meta, **every)
        choose_kernel[(rows,)](
            *row, *settings, *pools, first, cut, kept, seed.contiguous(), step.contiguous(),
            forced.contiguous(), token, logprob, TRUNCATED=truncated, **meta, **every,
        )  # fmt: skip
    return token, logprob


@triton.jit(do_not_specialize_on_alignment=["temperature"])
def pool_kernel(logits, stride, size, temperature, best, total, first, blocks, BLOCK: tl.constexpr):
    row, block = tl.program_id(0), tl.program_id(1)
    x = logits_of(logits, row, stride, block, size, BLOCK)
    column = block * BLOCK + tl.arange(0, BLOCK)
    largest = tl.max(x)
    masses = tl.where(x > float("-inf"), tl.exp((x - largest) * factor_of(temperature, row)), 0.0)
    place = row * blocks + block
    tl.store(best + place, largest)
    tl.store(total + place, tl.sum(masses))
    tl.store(first + place, tl.min(tl.where((x == largest) & (column < size), column, size - 1)))


@triton.jit
def _shifted(value, bits: tl.constexpr):
    """Shifted right, zeros coming in."""
    return (value.to(tl.uint64, bitcast=True) >> bits).to(tl.int64, bitcast=True)


@triton.jit
def _uniform(seed, step):
    """float64 in [0, 1): the splitmix64 finaliser of both, in int64."""
    value = seed + (step + 1) * ADDED + ADDED
    value = (value ^ _shifted(value, 30)) * TIMES
    value = (value ^ _shifted(value, 27)) * TIMES_AGAIN
    value = value ^ _shifted(value, 31)
    return _shifted(value, 11).to(tl.float64) * 1.1102230246251565e-16


@triton.jit(
    do_not_specialize_on_alignment=["temperature", "top_p", "top_k", "seed", "step", "forced"],
)
def choose_kernel(
    logits,
    stride,
    size,
    temperature,
    top_p,
    top_k,
    best,
    total,
    blocks,
    first,  # int32 [B, N]: first token of each block's largest logit
    cut,
    kept,
    seed,  # int64 [B]
    step,
    forced,
    token,  # int64 [B]
    logprob,  # float32 [B]
    TRUNCATED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    block = tl.arange(0, BLOCKS)
    there = block < blocks
    factor = factor_of(temperature, row)
    largest = largest_of(best, row, blocks, BLOCKS)
    weights = weights_of(best, total, row, blocks, factor, BLOCKS)
    mass = tl.sum(weights)
    own = tl.load(best + row * blocks + block, mask=there, other=float("-inf"))
    place = tl.load(first + row * blocks + block, mask=there, other=0)
    chosen = tl.min(tl.where(there & (own == largest), place, size - 1))
    if tl.load(temperature + row) > 0.0:
        if TRUNCATED:
            cuts = has_cut(temperature, top_p, top_k, row, size) != 0
            some = tl.load(kept + row * blocks + block, mask=there, other=0.0)
            weights = tl.where(cuts, some, weights)
        threshold = _uniform(tl.load(seed + row), tl.load(step + row)) * tl.sum(weights)
        # where sums in another order end below the threshold, the last block with a mass
        passed = (tl.cumsum(weights, 0) > threshold) & (weights > 0.0)
        found = tl.min(tl.where(passed, block, BLOCKS))
        found = tl.where(found < BLOCKS, found, tl.max(tl.where(weights > 0.0, block, 0)))
        before = tl.sum(tl.where(block < found, weights, 0.0))
        x = logits_of(logits, row, stride, found, size, BLOCK)
        column = found * BLOCK + tl.arange(0, BLOCK)
        masses = tl.where(column < size, tl.exp((x - largest) * factor), 0.0)
        if TRUNCATED:
            if cuts:
                masses = tl.where(is_kept(x, column, cut, row), masses, 0.0)
        running = before + tl.cumsum(masses.to(tl.float64), 0)
        passed = (running > threshold) & (masses > 0.0)
        nearest = tl.min(tl.where(passed, column, size))
        chosen = tl.where(nearest < size, nearest, tl.max(tl.where(masses > 0.0, column, 0)))
    wanted = tl.load(forced + row)
    taken = tl.where(wanted >= 0, wanted, chosen.to(tl.int64))
    tl.store(token + row, taken)
    x = tl.load(logits + row.to(tl.int64) * stride + taken).to(tl.float32)
    tl.store(logprob + row, (x - largest) * factor - tl.log(mass.to(tl.float32)))
