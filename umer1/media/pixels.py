"""From pixels to patches: sizes, normalisation and the order in which Qwen2-VL reads them.

Equal, bit for bit, to transformers' `Qwen2VLImageProcessor` and `Qwen2VLVideoProcessor`, in less
time per small picture.

Shapes: F frames, P = T * H * W patches with T = ceil(F / temporal_patch_size) and H, W in patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from umer1.media.sources import MediaError

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """What the vision tower expects; the defaults are Qwen2-VL's."""

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch_size * self.merge_size


def image_patches(
    image: Image.Image, pixel_format: PixelFormat, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Patches float32 [P, 3 * temporal * patch**2] and their grid int64 [3] of an RGB image.

    The image gets between `low` and `high` pixels. One with a side below one visual token is first
    enlarged with its proportions kept, as the SFT loader means to. (VLM2Vec's evaluation loader
    squeezes such an image to 56 x 56 instead; that belongs to the loader of its data sets.)
    """
    return video_patches([enlarge(image, pixel_format.factor)], pixel_format, low, high)


def video_patches(
    frames: list[Image.Image],
    pixel_format: PixelFormat,
    low: int,
    high: int,
    as_fetch_video: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `image_patches`, of RGB frames of one size and without that enlarging; the last frame is
    repeated to fill the last temporal patch.

    `as_fetch_video` resizes like `qwen_vl_utils.fetch_video`, in floats, instead of like
    transformers in integers: noise may differ by several levels of 255.
    """
    pixels = np.stack([np.asarray(frame) for frame in frames])
    size = smart_resize(*pixels.shape[1:3], pixel_format.factor, low, high, as_fetch_video)
    if size != pixels.shape[1:3]:
        pixels = _resize(pixels.astype(np.float32) if as_fetch_video else pixels, size)
    patches, grid = _patchify(pixels, pixel_format)
    mean, std = _scaled(pixel_format)
    patches -= mean
    patches /= std
    return torch.from_numpy(patches.reshape(len(patches), -1)), torch.tensor(grid)


def fetched_image(image: Image.Image, factor: int, low: int, high: int) -> Image.Image:
    """The image as `qwen_vl_utils.fetch_image` leaves it."""
    height, width = smart_resize(image.height, image.width, factor, low, high, at_least_one=True)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def enlarge(image: Image.Image, side: int) -> Image.Image:
    """The image with both sides at least `side`, proportions kept."""
    width, height = image.size
    if min(width, height) >= side:
        return image
    check_ratio(height, width)
    scale = side / min(width, height)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def smart_resize(
    height: int, width: int, factor: int, low: int, high: int, at_least_one: bool = False
) -> tuple[int, int]:
    """Qwen2-VL's size rule: multiples of `factor`, between `low` and `high` pixels, proportions
    roughly kept. `at_least_one`: no side rounds to zero, as in qwen-vl-utils (in transformers it
    may, and then counts as below `low`)."""
    check_ratio(height, width)
    least = factor if at_least_one else 0
    rows = max(least, round(height / factor) * factor)
    columns = max(least, round(width / factor) * factor)
    if rows * columns > high:
        shrink = math.sqrt(height * width / high)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < low:
        grow = math.sqrt(low / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def check_ratio(height: int, width: int) -> None:
    """Raises MediaError for proportions that Qwen2-VL does not take."""
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise MediaError(
            f"{width} x {height} pixels: one side is {ratio:.0f} times the other, "
            f"wants at most {MAX_ASPECT_RATIO} times"
        )


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[F, height, width, C] of 0 … 255, resized; of the dtype given, uint8 or float32."""
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        size,
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )
    if resized.is_floating_point():
        resized = resized.clamp_(0, 255).round_()
    return resized.permute(0, 2, 3, 1).numpy()


# in numpy: a small picture costs half of what it does in torch
def _patchify(frames: np.ndarray, pixel_format: PixelFormat) -> tuple[np.ndarray, list[int]]:
    """[F, height, width, C] -> float32 [P, C, temporal * patch**2], and the grid. The patches of
    one visual token stand together."""
    temporal, patch = pixel_format.temporal_patch_size, pixel_format.patch_size
    if missing := -len(frames) % temporal:
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    times, height, width, colours = frames.shape
    grid = [times // temporal, height // patch, width // patch]
    merge = pixel_format.merge_size
    rows, columns = grid[1] // merge, grid[2] // merge
    cut = frames.reshape(grid[0], temporal, rows, merge, patch, columns, merge, patch, colours)
    patches = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).astype(np.float32, order="C")
    return patches.reshape(math.prod(grid), colours, temporal * patch**2), grid


@cache
def _scaled(pixel_format: PixelFormat) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation on the scale 0 … 255, float32 [3, 1], computed as transformers does."""
    scale = 1.0 / (1 / 255)
    mean = torch.tensor(pixel_format.mean, dtype=torch.float32) * scale
    std = torch.tensor(pixel_format.std, dtype=torch.float32) * scale
    return mean.view(3, 1).numpy(), std.view(3, 1).numpy()
