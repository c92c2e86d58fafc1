"""Prompts as other engines take them: token ids with one placeholder per medium, and the media as
pictures that need no resizing.

The patches of a `Sequence` are whole levels of 255, scaled; scaled back, they are the very pixels
that our processor cut. As PNG they reach the other engine without loss, and its own processor,
which finds nothing to resize, cuts the same patches from them.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from umer1.media import PixelFormat
from umer1.model.config import ModelConfig
from umer1.model.sequence import Sequence, check_sequence


@dataclass(frozen=True, slots=True)
class WireMedium:
    """kind: "image" or "video"; frames: base64 of a PNG each, one for an image."""

    kind: str
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WirePrompt:
    """ids: one placeholder per medium. whole: as the decoder reads them, one per visual token."""

    ids: list[int]
    whole: list[int]
    media: tuple[WireMedium, ...]

    def head(self, count: int) -> WirePrompt:
        """The first `count` tokens of `whole`, which must hold all media."""
        cut = len(self.whole) - count
        return WirePrompt(self.ids[: len(self.ids) - cut], self.whole[:count], self.media)


def wire_prompt(
    sequence: Sequence, config: ModelConfig, pixel_format: PixelFormat, where: str
) -> WirePrompt:
    """Raises ValueError, starting with `where`, for a sequence that other engines read otherwise."""
    check_sequence(sequence, where)
    ids, whole = [], sequence.input_ids.tolist()
    media: list[WireMedium] = []
    mask, merge = sequence.media_mask.tolist(), config.vision.spatial_merge_size
    grids = sequence.grid_thw.tolist()
    sizes = sequence.grid_thw.prod(-1).tolist()
    patches = () if sequence.pixel_values is None else sequence.pixel_values.split(sizes)
    place = 0
    while place < len(whole):
        ids.append(whole[place])
        if not mask[place]:
            if whole[place] in (config.image_token_id, config.video_token_id):
                raise ValueError(f"{where}: token {place} is a placeholder without a medium")
            place += 1
            continue
        number = len(media)
        kind = "video" if whole[place] == config.video_token_id else "image"
        _check_positions(grids[number], merge, f"{where}, medium {number}")
        pixels = media_pixels(patches[number], grids[number], pixel_format)
        kept = pixels if kind == "video" else pixels[:1]
        media.append(WireMedium(kind, tuple(_png(frame) for frame in kept)))
        place += sizes[number] // merge**2
    return WirePrompt(ids, whole, tuple(media))


def media_pixels(patches: Tensor, grid: list[int], pixel_format: PixelFormat) -> np.ndarray:
    """uint8 [frames, height, width, 3] of patches float32 [P, patch_dim] and their grid in patches;
    an image comes as often as there are frames in a temporal patch."""
    time, height, width = grid
    temporal, patch = pixel_format.temporal_patch_size, pixel_format.patch_size
    merge = pixel_format.merge_size
    cut = patches.view(
        time, height // merge, width // merge, merge, merge, 3, temporal, patch, patch
    )
    frames = cut.permute(0, 6, 1, 3, 7, 2, 4, 8, 5)
    frames = frames.reshape(time * temporal, height * patch, width * patch, 3)
    mean, std = (255 * torch.tensor(each) for each in (pixel_format.mean, pixel_format.std))
    return (frames * std + mean).round().clamp(0, 255).to(torch.uint8).numpy()


def _check_positions(grid: list[int], merge: int, where: str) -> None:
    """See `umer1.model.rope_index`: the one case in which positions differ."""
    time, cells = grid[0], max(grid[1:]) // merge
    if time > cells:
        raise ValueError(
            f"{where}: a video of {time} time steps and {cells} visual tokens along its longer "
            "side: vLLM and SGLang count the positions after it in another way than the model was "
            "trained with; use fewer or larger frames, or the native engine"
        )


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
