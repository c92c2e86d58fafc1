"""From pixels to patches: sizes, normalisation and the order in which Qwen2-VL reads them.

Equal, bit for bit, to transformers' `Qwen2VLImageProcessor` and `Qwen2VLVideoProcessor`, with less overhead per
picture.

Shapes: F frames, P = T * H * W patches with T = ceil(F / temporal_patch_size) and H, W in patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from umer1.media.sources import MediaError

MAX_ASPECT_RATIO = 200


@dataclass(slots=True)
class MediaLimits:
    """How many pixels and frames a medium may have, and what stands in for a medium that is absent.

    Pixels count after resizing; 28 x 28 of them make one visual token (for video: of two frames).
    `blank_image`: what a text-only input gets. "evaluation": a white 28 x 28 image as qwen-vl-utils passes it on,
    enlarged to 56 x 56 (4 tokens). "sft": the same image as it is (1 token). "none": nothing.
    """

    # the released evaluation asks for 784 … 2,359,296, but qwen-vl-utils enlarges to 4 * 28**2 before that counts
    image_min_pixels: int = 4 * 28 * 28
    image_max_pixels: int = 2_359_296
    video_min_pixels: int = 128 * 28 * 28  # per frame
    video_max_pixels: int = 768 * 28 * 28
    num_frames: int = 8
    blank_image: str = "evaluation"

    def __post_init__(self):
        for name in (
            "image_min_pixels",
            "image_max_pixels",
            "video_min_pixels",
            "video_max_pixels",
            "num_frames",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: wants a positive whole number, got {value!r}")
        for kind in ("image", "video"):
            low, high = getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels")
            if low > high:
                raise ValueError(f"{kind}_min_pixels: {low} is more than {kind}_max_pixels {high}")
        if self.blank_image not in ("evaluation", "sft", "none"):
            raise ValueError(
                f"blank_image: wants 'evaluation', 'sft' or 'none', got {self.blank_image!r}"
            )

    @classmethod
    def from_dict(cls, values: dict) -> MediaLimits:
        known = [field.name for field in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(f"limits: unknown key {unknown[0]!r}, wants any of {', '.join(known)}")
        return cls(**values)


EVALUATION_LIMITS = MediaLimits()
SFT_LIMITS = MediaLimits(
    image_min_pixels=768,
    video_min_pixels=4 * 28 * 28,
    video_max_pixels=32 * 28 * 28,
    blank_image="sft",
)


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

    The image gets between `low` and `high` pixels. One with a side below one visual token is first enlarged with its
    proportions kept, as the SFT loader intends. (VLM2Vec's evaluation loader instead squeezes it to 56 x 56: that
    belongs to the loader of its data sets.)
    """
    image = _enlarge(image, pixel_format.factor)
    return video_patches([image], pixel_format, low, high)


def video_patches(
    frames: list[Image.Image], pixel_format: PixelFormat, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """As `image_patches`, for RGB frames of one size; the last frame is repeated to fill the last temporal patch."""
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2)
    height, width = smart_resize(*pixels.shape[2:], pixel_format.factor, low, high)
    if (height, width) != tuple(pixels.shape[2:]):
        # what transformers' processors run: bicubic on uint8, antialiased
        pixels = torch.nn.functional.interpolate(
            pixels.contiguous(),
            (height, width),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
    mean, std = _scaled(pixel_format)
    return _patchify(pixels.float().sub_(mean).div_(std), pixel_format)


def smart_resize(height: int, width: int, factor: int, low: int, high: int) -> tuple[int, int]:
    """Qwen2-VL's size rule: multiples of `factor`, between `low` and `high` pixels, proportions roughly kept."""
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise MediaError(
            f"one side is {ratio:.0f} times the other, wants at most {MAX_ASPECT_RATIO} times"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > high:
        shrink = math.sqrt(height * width / high)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < low:
        grow = math.sqrt(low / (height * width))
        rows, columns = (
            math.ceil(height * grow / factor) * factor,
            math.ceil(width * grow / factor) * factor,
        )
    return rows, columns


def blank_image(rule: str) -> Image.Image | None:
    """The white image of a text-only input under `MediaLimits.blank_image`; None under "none"."""
    side = {"evaluation": 56, "sft": 28}.get(rule)
    return Image.new("RGB", (side, side), (255, 255, 255)) if side else None


def _patchify(frames: Tensor, pixel_format: PixelFormat) -> tuple[Tensor, Tensor]:
    """[F, C, height, width] -> [P, C * temporal * patch**2]: the patches of one visual token stand together."""
    temporal, patch, merge = (
        pixel_format.temporal_patch_size,
        pixel_format.patch_size,
        pixel_format.merge_size,
    )
    if missing := -len(frames) % temporal:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    times, rows, columns = (
        len(frames) // temporal,
        frames.shape[2] // patch,
        frames.shape[3] // patch,
    )
    cut = frames.view(
        times,
        temporal,
        frames.shape[1],
        rows // merge,
        merge,
        patch,
        columns // merge,
        merge,
        patch,
    )
    patches = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(times * rows * columns, -1)
    return patches, torch.tensor([times, rows, columns])


def _enlarge(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    if min(width, height) >= side:
        return image
    scale = side / min(width, height)
    return image.resize(
        (max(side, round(width * scale)), max(side, round(height * scale))),
        Image.Resampling.BICUBIC,
    )


def _scaled(pixel_format: PixelFormat) -> tuple[Tensor, Tensor]:
    """Mean and deviation on the scale 0 … 255, [3, 1, 1], in the arithmetic of transformers' fused rescaling."""
    scale = 1.0 / (1 / 255)
    mean = torch.tensor(pixel_format.mean, dtype=torch.float32) * scale
    std = torch.tensor(pixel_format.std, dtype=torch.float32) * scale
    return mean.view(3, 1, 1), std.view(3, 1, 1)
