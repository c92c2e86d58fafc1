"""Padded and packed hidden states in one form: rows back to back, sequences as ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from umer1_kernels import checks


class GatheredHidden(NamedTuple):
    """vectors [B, H]; index int64 [B], -1 where the token is absent."""

    vectors: Tensor
    index: Tensor


class Segments(NamedTuple):
    """rows [R, H], ids [R]; sequence b is rows [begin[b], end[b]), counted from origin[b]."""

    rows: Tensor
    ids: Tensor
    begin: Tensor
    end: Tensor
    origin: Tensor


def segments(
    hidden: Tensor,
    input_ids: Tensor,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    start: Tensor | None,
) -> Segments:
    """Arguments are checked already; see gather_hidden for their meaning."""
    device = hidden.device
    if cu_seqlens is not None:
        bounds = cu_seqlens.long()
        first, last = bounds[:-1], bounds[1:]
        origin = torch.zeros_like(first)
        rows, ids = hidden, input_ids
    else:
        count, length = input_ids.shape
        first = torch.arange(count, device=device) * length
        last = first + (length if lengths is None else lengths.long())
        origin = first
        rows, ids = hidden.reshape(count * length, hidden.shape[2]), input_ids.reshape(-1)
    begin = first if start is None else first + start.long()
    return Segments(rows, ids, begin, last, origin)


def gather_by(
    operator: Callable[..., tuple[Tensor, Tensor, Tensor]],
    hidden: Tensor,
    input_ids: Tensor,
    token_id: int,
    *,
    lengths=None,
    cu_seqlens=None,
    start=None,
    occurrence: str = "last",
    normalize: bool = True,
) -> GatheredHidden:
    """umer1_kernels.gather_hidden by an operator over segments -> vectors, row index (-1), norm."""
    rows, ids, begin, end, origin = segments(hidden, input_ids, lengths, cu_seqlens, start)
    vectors, index, _ = operator(
        rows, ids.long(), begin, end, token_id, occurrence == "last", normalize
    )
    return GatheredHidden(vectors, torch.where(index >= 0, index - origin, -1))


def check_arguments(hidden, input_ids, token_id, lengths, cu_seqlens, start, occurrence) -> None:
    """Raise one error naming the first wrong argument of gather_hidden."""
    packed = cu_seqlens is not None
    checks.check_floating("hidden", hidden, 2 if packed else 3)
    checks.check_integer("input_ids", input_ids, tuple(hidden.shape[:-1]))
    checks.check_same("input_ids", input_ids, "hidden", hidden, dtype=False)
    if isinstance(token_id, bool) or not isinstance(token_id, int):
        raise TypeError(f"token_id is {token_id!r}; it must be an int")
    checks.check_choice("occurrence", occurrence, ("last", "first"))
    if packed and lengths is not None:
        raise ValueError(
            "lengths goes with padded hidden [B, L, H], cu_seqlens with packed hidden [T, H]"
        )
    if packed:
        if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dim() != 1 or len(cu_seqlens) < 2:
            raise ValueError("cu_seqlens must be a tensor [B + 1] of offsets: 0, ..., T")
        checks.check_integer("cu_seqlens", cu_seqlens, tuple(cu_seqlens.shape))
        checks.check_range("cu_seqlens", cu_seqlens, 0, hidden.shape[0] + 1)
    count = cu_seqlens.shape[0] - 1 if packed else hidden.shape[0]
    if lengths is not None:
        checks.check_integer("lengths", lengths, (count,))
        checks.check_range("lengths", lengths, 0, hidden.shape[1] + 1)
    if start is not None:
        checks.check_integer("start", start, (count,))
        checks.check_range("start", start, 0, torch.iinfo(torch.int64).max)
    for name, value in (("cu_seqlens", cu_seqlens), ("lengths", lengths), ("start", start)):
        if value is not None:
            checks.check_same(name, value, "hidden", hidden, dtype=False)
