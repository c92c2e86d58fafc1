"""Packed rows regrouped into rectangles: how SDPA runs over many short sequences at once.

Sequences of similar length share a rectangle [b, S, ...]; shorter ones are padded on the right.
Under a causal mask no real query sees the padding, so no mask is needed. Padding rows repeat a
real row: never uninitialised memory.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RowGroups:
    """The plan for one list of lengths.

    rectangles: (b, S) of each rectangle, in the order of the padded rows, longest first.
    """

    def __init__(
        self, lengths: list[int], device: torch.device | str, shortest: float = 1.0
    ) -> None:
        """`shortest`: the least length in a rectangle as a part of its longest; 1 never pads."""
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        starts = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
        sizes = torch.tensor(lengths, dtype=torch.int64)
        self.total = int(starts[-1])
        self.rectangles: list[tuple[int, int]] = []
        pieces = []
        first = padded = 0
        while first < len(order):
            longest = lengths[order[first]]
            last = first
            while last < len(order) and lengths[order[last]] >= shortest * longest:
                last += 1
            members = torch.tensor(order[first:last])
            column = torch.arange(longest).expand(len(members), longest)
            pieces.append(
                (starts[members, None] + column.minimum(sizes[members, None] - 1)).flatten()
            )
            self.rectangles.append((len(members), longest))
            padded += len(members) * longest
            first = last
        self.padded_total = padded
        index = torch.cat(pieces)
        self.is_identity = padded == self.total and bool((index == torch.arange(self.total)).all())
        # Padding repeats the last row of a sequence: its first copy is the real one.
        inverse = torch.full((self.total,), padded).scatter_reduce(
            0, index, torch.arange(padded), reduce="amin"
        )
        self.padded_to_packed = index.to(device)
        self.packed_to_padded = inverse.to(device)

    def pad(self, rows: Tensor) -> Tensor:
        """[T, ...] -> [padded rows, ...].

        Its gradient takes only the real rows: that of a padding row must be zero, and is when the
        padding rows of the result are dropped by `unpad`.
        """
        if self.is_identity:
            return rows
        return _Gather.apply(rows, self.padded_to_packed, self.packed_to_padded)

    def unpad(self, rows: Tensor) -> Tensor:
        """[padded rows, ...] -> [T, ...]."""
        if self.is_identity:
            return rows
        return _Drop.apply(rows, self.packed_to_padded)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.padded = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.padded, *grad.shape[1:]).index_copy_(0, index, grad), None
