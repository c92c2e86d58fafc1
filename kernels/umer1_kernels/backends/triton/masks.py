"""Which logits are negatives of their row, in the kernels."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def live_rows(live, first_row, rows, HAS_LIVE: tl.constexpr):
    """How many of the `rows` rows from `first_row` on count."""
    count = rows
    if HAS_LIVE:
        count = tl.maximum(tl.minimum(tl.load(live) - first_row, rows), 0)
    return count


@triton.jit
def direction(scale):
    """The sign that makes the largest logit the largest product, and |scale| for powers of two."""
    value = tl.load(scale)
    sign = tl.where(value < 0, -1.0, 1.0).to(value.dtype)
    return sign, tl.abs(value) * LOG2_E


@triton.jit
def padded(columns):
    """`columns`, and the padding that lets whole 16 bytes be read or written at a row's end."""
    return (columns + 7) // 8 * 8
