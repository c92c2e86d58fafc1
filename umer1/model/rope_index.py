"""M-RoPE positions of one sequence, a pure function of the media mask and the grids.

Text counts up by one on all three axes. A medium of t x h x w merged cells starts where the text
before it ended: its cells are numbered by time, row and column, each from that start. The text
after it goes on at start + max(h, w), as in transformers 5 (transformers 4, vLLM and SGLang go on
after the largest position, max(t, h, w); the two agree unless a video has more time steps than
merged cells on its longer side; the released recipe has 4 time steps, and wider frames than that).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def rope_index(media_mask: Tensor, grid_thw: Tensor, spatial_merge: int = 2) -> tuple[Tensor, int]:
    """Positions int64 [3, T] (time, height, width) and the position of the token that follows.

    media_mask: bool [T]; grid_thw: int64 [M, 3] in patches, in order of appearance.
    Raises ValueError when the placeholders do not hold exactly the media.
    """
    total = media_mask.shape[0]
    grids = grid_thw.tolist()
    if not grids:
        if bool(media_mask.any()):
            raise ValueError(
                f"media_mask has {int(media_mask.sum())} placeholders but grid_thw is empty"
            )
        return torch.arange(total).expand(3, total), total
    placeholders = media_mask.nonzero()[:, 0].tolist()
    pieces: list[Tensor] = []
    used = token = position = 0
    for number, (time, height, width) in enumerate(grids):
        if height % spatial_merge or width % spatial_merge or min(time, height, width) < 1:
            raise ValueError(
                f"grid_thw[{number}] is {[time, height, width]}, want time >= 1 and height and "
                f"width positive multiples of {spatial_merge}"
            )
        height, width = height // spatial_merge, width // spatial_merge
        cells = time * height * width
        run = placeholders[used : used + cells]
        if len(run) < cells or run[-1] - run[0] + 1 != cells:
            raise ValueError(
                f"grid_thw[{number}] needs {cells} placeholders in a row in media_mask, "
                f"got {_run_length(placeholders[used:])}"
            )
        text = run[0] - token
        pieces.append(torch.arange(position, position + text).expand(3, text))
        pieces.append(_cell_positions(time, height, width, position + text))
        position += text + max(height, width)
        token = run[-1] + 1
        used += cells
    if used != len(placeholders):
        raise ValueError(
            f"media_mask has {len(placeholders)} placeholders, want {used} as grid_thw {grids} says"
        )
    pieces.append(torch.arange(position, position + total - token).expand(3, total - token))
    return torch.cat(pieces, dim=1), position + total - token


def _cell_positions(time: int, height: int, width: int, start: int) -> Tensor:
    """int64 [3, time * height * width]."""
    cells = _frame_positions(height, width)
    if time > 1:
        frames = F.pad(torch.arange(time)[None, :, None], (0, 0, 0, 0, 0, 2))  # [3, time, 1]
        cells = (cells[:, None] + frames).flatten(1)
    return cells + start


@lru_cache(maxsize=64)  # of one frame each: a video of any length keeps no more than a picture
def _frame_positions(height: int, width: int) -> Tensor:
    """Time 0, row and column of every cell, int64 [3, height * width]."""
    axes = torch.meshgrid(torch.zeros(1, dtype=torch.int64), torch.arange(height), torch.arange(width), indexing="ij")  # fmt: skip
    return torch.stack(axes).view(3, -1)


def _run_length(placeholders: list[int]) -> int:
    length = 0
    while length < len(placeholders) and placeholders[length] == placeholders[0] + length:
        length += 1
    return length
