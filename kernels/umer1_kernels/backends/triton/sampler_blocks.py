"""What the sampler's kernels share: logits of a block, exponents, the blocks' pools.

Legend: B rows, V tokens, N blocks of BLOCK tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def factor_of(temperature, row):
    """Of exponents: 1 / temperature, 1 for greedy rows."""
    value = tl.load(temperature + row)
    return 1.0 / tl.where(value > 0.0, value, 1.0)


@triton.jit
def logits_of(logits, row, stride, block, size, BLOCK: tl.constexpr):
    """A block of a row in float32, minus infinity behind the last."""
    column = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(
        logits + row.to(tl.int64) * stride + column, mask=column < size, other=float("-inf")
    )
    return x.to(tl.float32)


@triton.jit
def largest_of(best, row, blocks, BLOCKS: tl.constexpr):
    """The row's largest logit."""
    block = tl.arange(0, BLOCKS)
    return tl.max(tl.load(best + row * blocks + block, mask=block < blocks, other=float("-inf")))


@triton.jit
def weights_of(best, total, row, blocks, factor, BLOCKS: tl.constexpr):
    """float64 [BLOCKS]: the blocks' sums of exponentials relative to the row's largest logit."""
    block = tl.arange(0, BLOCKS)
    there = block < blocks
    own = tl.load(best + row * blocks + block, mask=there, other=float("-inf"))
    sums = tl.load(total + row * blocks + block, mask=there, other=0.0)
    exponent = (own - tl.max(own)) * factor
    return tl.where(sums > 0.0, tl.exp(exponent).to(tl.float64) * sums.to(tl.float64), 0.0)
