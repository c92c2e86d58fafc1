"""Rotary embeddings: M-RoPE of the decoder, 2-D rotary of the vision tower.

Both rotate the pairs (x[i], x[i + D/2]) of every head by an angle per token and i. The angles are
computed and applied in float32 whatever the dtype of x.

Shapes: T tokens, P patches, H heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def decoder_angles(
    position_ids: Tensor, head_dim: int, theta: float, mrope_section: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [T, 1, D/2], for positions [3, T] (M-RoPE) or [T] (equal axes)."""
    device = position_ids.device
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    frequency = 1.0 / (theta**exponent)
    if position_ids.dim() == 1:
        angles = position_ids.float()[:, None] * frequency
    else:
        # The frequencies are dealt to the axes in three runs: time, height, width.
        angles = torch.cat(
            [
                position_ids[axis].float()[:, None] * part
                for axis, part in enumerate(frequency.split(list(mrope_section)))
            ],
            dim=1,
        )
    return angles.cos()[:, None], angles.sin()[:, None]


def vision_angles(
    patch_positions: Tensor, head_dim: int, theta: float = 10000.0
) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [P, 1, D/2], for (row, column) positions [P, 2]: half for each."""
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device=patch_positions.device) / half
    frequency = 1.0 / (theta**exponent)
    angles = (patch_positions.float()[:, :, None] * frequency).flatten(1)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [T, H, D] rotated by the angles [T, 1, D/2], in the dtype of x."""
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back: nothing but the angles is kept."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=direction)
    return out.to(x.dtype)
