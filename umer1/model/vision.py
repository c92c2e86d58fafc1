"""The vision tower: patches of all media in, one feature per merged cell out.

A frame (pair of frames of a video) attends to itself only. The patches of a medium come in the
order of the image processor: by merged cell, so each four rows in a row are one cell.
Shapes: P patches, M media, V cells (P / merge**2), E tower width, D head size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umer1.model.attention import PackedAttention, compute_dtype
from umer1.model.config import VisionConfig
from umer1.model.fused import add_rowwise_, quick_gelu
from umer1.model.rotary import rotate_heads, vision_rotation

_EPSILON = 1e-6


class VisionTower(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        # A convolution whose stride is its kernel is a matrix product over flat patches.
        self.patch_embed = nn.Linear(config.patch_dim, config.embed_dim, bias=False)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config)
        self.gradient_checkpointing = False

    def forward(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """pixel_values [P, patch_dim], grid_thw int64 [M, 3] on the CPU -> [V, hidden_size]."""
        grids = [tuple(grid) for grid in grid_thw.tolist()]
        expected = sum(time * height * width for time, height, width in grids)
        if pixel_values.shape != (expected, self.config.patch_dim):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}, want "
                f"{(expected, self.config.patch_dim)} as grid_thw {grids} says"
            )
        weight = self.patch_embed.weight
        merge = self.config.spatial_merge_size
        positions = torch.cat(
            [_frame_positions(*frame, merge) for time, *frame in grids for _ in range(time)]
        )
        rotation = vision_rotation(positions.to(weight.device), self.config.head_dim)
        frames = [height * width for time, height, width in grids for _ in range(time)]
        ends = torch.tensor([0, *frames], dtype=torch.int64).cumsum(0).to(torch.int32)
        dtype = compute_dtype(weight)
        attend = PackedAttention(
            frames, ends.to(weight.device), dtype, causal=False, head_size=self.config.head_dim
        )
        hidden = self.patch_embed(pixel_values.to(weight.dtype)).to(dtype)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, rotation, attend, use_reentrant=False)
            else:
                hidden = block(hidden, rotation, attend)
        return self.merger(hidden)


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.heads = config.num_heads
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.fc1 = nn.Linear(width, config.mlp_ratio * width)
        self.fc2 = nn.Linear(config.mlp_ratio * width, width)

    def forward(self, hidden: Tensor, rotation: Tensor, attend: PackedAttention) -> Tensor:
        qkv = self.qkv(self.norm1(hidden)).unflatten(1, (3 * self.heads, -1))
        qkv = rotate_heads(qkv, 2 * self.heads, rotation)
        attended = attend(0, *qkv.chunk(3, dim=1))
        hidden = hidden + self.proj(attended.flatten(1))
        return add_rowwise_(hidden, self._feed_forward)

    def _feed_forward(self, rows: Tensor) -> Tensor:
        return self.fc2(quick_gelu(self.fc1(self.norm2(rows))))

    def residual_outputs(self) -> tuple[nn.Linear, nn.Linear]:
        """The two products that are added to the residual stream."""
        return self.proj, self.fc2


class Merger(nn.Module):
    """Four neighbouring patches to one feature of the decoder's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.width = config.embed_dim * config.spatial_merge_size**2
        self.norm = nn.LayerNorm(config.embed_dim, eps=_EPSILON)
        self.fc1 = nn.Linear(self.width, self.width)
        self.fc2 = nn.Linear(self.width, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(hidden).view(-1, self.width))))


@lru_cache(maxsize=64)
def _frame_positions(height: int, width: int, merge: int) -> Tensor:
    """(row, column) of every patch, int64 [height * width, 2], in the processor's order."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None].expand(height, width)
    cells = [
        axis.reshape(height // merge, merge, width // merge, merge).transpose(1, 2).flatten()
        for axis in (rows, columns)
    ]
    return torch.stack(cells, dim=1)
