"""Where a row's kept tokens end: top-k, then top-p of what is left, without a sort.

Legend: B rows, V tokens, N blocks of BLOCK tokens. The cut is the logit of the last kept token, found
by bisection over the bits of a float32, and that token among equal ones: the lower ones stay.
"""

from __future__ import annotations

import triton
import triton.language as tl

from umer1_kernels.backends.triton.sampler_blocks import (
    factor_of,
    largest_of,
    logits_of,
    weights_of,
)


@triton.jit
def _key(x):
    """int32 in the order of the numbers; the two zeros alike."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _number(key):
    """The float32 of a key."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def has_cut(temperature, top_p, top_k, row, size):
    """1 if this row is sampled from a part of its tokens, else 0."""
    k = tl.load(top_k + row)
    some = (tl.load(top_p + row) < 1.0) | ((k > 0) & (k < size))
    # a number: a comparison returned from here would lose its type in the interpreter
    return tl.where(some & (tl.load(temperature + row) > 0.0), 1, 0)


@triton.jit
def _above(logits, row, stride, size, best, blocks, cut, largest, factor, BLOCK: tl.constexpr):
    """How many tokens have a key above the cut, and their mass in float64."""
    count = tl.full((), 0, tl.int32)
    mass = tl.full((), 0.0, tl.float64)
    for block in range(0, blocks):
        if _key(tl.load(best + row * blocks + block)) > cut:
            x = logits_of(logits, row, stride, block, size, BLOCK)
            above = _key(x) > cut
            count += tl.sum(above.to(tl.int32))
            masses = tl.where(above, tl.exp((x - largest) * factor), 0.0)
            mass += tl.sum(masses.to(tl.float64))
    return count, mass


@triton.jit(
    do_not_specialize_on_alignment=["temperature", "top_p", "top_k"],
)
def cut_kernel(
    logits,  # [B, V]
    stride,
    size,
    temperature,  # float32 [B]
    top_p,  # float32 [B]
    top_k,  # int64 [B]
    best,  # float32 [B, N]
    total,  # float32 [B, N]
    blocks,
    cut,  # int32 [B, 2]: key of the last kept logit, last kept token of that logit
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Top-k, then top-p of what is left.

    With C(c) tokens of mass F(c) above c, the k-th logit is the smallest c with C(c) < k, and the
    last one of top-p the smallest c with F(c) < p * mass: a token stays while what is before it is
    less.
    """
    row = tl.program_id(0)
    if has_cut(temperature, top_p, top_k, row, size) != 0:
        factor = factor_of(temperature, row)
        largest = largest_of(best, row, blocks, BLOCKS)
        k = tl.load(top_k + row)
        limited = (k > 0) & (k < size)
        p = tl.load(top_p + row).to(tl.float64)
        mass = tl.sum(weights_of(best, total, row, blocks, factor, BLOCKS))
        low = tl.full((), -2139095041, tl.int32)  # the key of minus infinity
        ties = tl.full((), 2147483647, tl.int32)  # equal ones of the last logit that stay
        if limited:
            most = k.to(tl.int32)
            high = _key(largest)
            while low < high:
                middle = (low >> 1) + (high >> 1) + (low & high & 1)
                count, _ = _above(
                    logits, row, stride, size, best, blocks, middle, largest, factor, BLOCK
                )
                enough = count >= most
                low = tl.where(enough, middle + 1, low)
                high = tl.where(enough, high, middle)
            count, above = _above(
                logits, row, stride, size, best, blocks, low, largest, factor, BLOCK
            )
            ties = most - count
            own = tl.exp((_number(low) - largest) * factor).to(tl.float64)
            mass = above + own * ties.to(tl.float64)
        if p < 1.0:
            wanted = p * mass
            if not limited:
                # a token whose share is below (1 - p) / V has all of p before it
                share = (tl.log(((1.0 - p) * mass / size).to(tl.float32)) - 1e-3) / factor
                low = tl.maximum(low, _key(largest + share))
            least = low
            high = _key(largest)
            while low < high:
                middle = (low >> 1) + (high >> 1) + (low & high & 1)
                _, above = _above(
                    logits, row, stride, size, best, blocks, middle, largest, factor, BLOCK
                )
                enough = above >= wanted
                low = tl.where(enough, middle + 1, low)
                high = tl.where(enough, high, middle)
            _, above = _above(logits, row, stride, size, best, blocks, low, largest, factor, BLOCK)
            own = tl.exp((_number(low) - largest) * factor).to(tl.float64)
            stay = tl.minimum(tl.maximum(tl.ceil((wanted - above) / own), 1.0), 2147483647.0)
            stay = stay.to(tl.int32)
            ties = tl.where(low == least, tl.minimum(stay, ties), stay)
        last = tl.full((), 0, tl.int32)
        for block in range(0, blocks):
            if (ties > 0) & (_key(tl.load(best + row * blocks + block)) >= low):
                x = logits_of(logits, row, stride, block, size, BLOCK)
                column = block * BLOCK + tl.arange(0, BLOCK)
                equal = ((_key(x) == low) & (column < size)).to(tl.int32)
                here = (equal > 0) & (tl.cumsum(equal, 0) <= ties)
                last = tl.maximum(last, tl.max(tl.where(here, column, 0)))
                ties -= tl.sum(equal)
        tl.store(cut + row * 2, low)
        tl.store(cut + row * 2 + 1, last)


@triton.jit
def is_kept(x, column, cut, row):
    """Which tokens a row with a cut keeps."""
    key = _key(x)
    low = tl.load(cut + row * 2)
    return (key > low) | ((key == low) & (column <= tl.load(cut + row * 2 + 1)))


@triton.jit(
    do_not_specialize_on_alignment=["temperature", "top_p", "top_k"],
)
def kept_kernel(
    logits,
    stride,
    size,
    temperature,
    top_p,
    top_k,
    best,
    total,
    blocks,
    cut,
    kept,  # float64 [B, N]: mass of the kept tokens, relative to the row's largest logit
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row, block = tl.program_id(0), tl.program_id(1)
    if has_cut(temperature, top_p, top_k, row, size) != 0:
        largest = largest_of(best, row, blocks, BLOCKS)
        x = logits_of(logits, row, stride, block, size, BLOCK)
        column = block * BLOCK + tl.arange(0, BLOCK)
        masses = tl.exp((x - largest) * factor_of(temperature, row))
        masses = tl.where(is_kept(x, column, cut, row) & (column < size), masses, 0.0)
        tl.store(kept + row * blocks + block, tl.sum(masses.to(tl.float64)))
