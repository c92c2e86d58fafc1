"""Rotary embeddings: M-RoPE of the decoder, 2-D rotary of the vision tower.

A head's numbers are rotated in pairs by an angle per token and pair. Our weights keep the two
numbers of a pair side by side (a checkpoint keeps them half a head apart: see key_names.py), so a
rotation is one multiplication by a complex number. Angles and products are float32 or wider.

Shapes: T tokens, P patches, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels.inference import rotate_heads_


def decoder_rotation(
    position_ids: Tensor, head_dim: int, theta: float, mrope_section: tuple[int, ...]
) -> Tensor:
    """complex64 [T, 1, D/2] for positions [3, T] (M-RoPE) or [T] (equal on the three axes)."""
    frequency = _frequencies(head_dim, theta, position_ids.device)
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
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def vision_rotation(patch_positions: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """complex64 [P, 1, D/2] for (row, column) positions [P, 2]: half of the pairs for each."""
    frequency = _frequencies(head_dim // 2, theta, patch_positions.device)
    angles = (patch_positions.float()[:, :, None] * frequency).flatten(1)
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def rotate_heads(fused: Tensor, rotated: int, rotation: Tensor) -> Tensor:
    """fused [T, heads, D] with its first `rotated` heads turned by rotation [T, 1, D/2].

    Query, key and value heads stay in one tensor, so the gradient is written once. Without gradients
    `fused` itself is turned.
    """
    if torch.is_grad_enabled():
        return _RotateHeads.apply(fused, rotated, rotation)
    return rotate_heads_(fused, rotated, rotation)


class _RotateHeads(torch.autograd.Function):
    """The gradient of a rotation is the rotation back: nothing but the angles is kept."""

    @staticmethod
    def forward(ctx, fused: Tensor, rotated: int, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(rotation)
        ctx.rotated = rotated
        return _turn(fused, rotated, rotation)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (rotation,) = ctx.saved_tensors
        return _turn(grad, ctx.rotated, rotation.conj()), None, None


def _turn(fused: Tensor, rotated: int, rotation: Tensor) -> Tensor:
    wide = torch.promote_types(fused.dtype, torch.float32)
    out = fused.to(wide, copy=True, memory_format=torch.contiguous_format)
    torch.view_as_complex(out[:, :rotated].unflatten(-1, (-1, 2))).mul_(rotation)
    return out.to(fused.dtype)


def _frequencies(size: int, theta: float, device: torch.device) -> Tensor:
    """theta ** (-2 i / size), float32 [size / 2]."""
    exponent = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    return 1.0 / (theta**exponent)
