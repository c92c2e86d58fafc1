"""How many pixels and frames media may have."""

from __future__ import annotations

from dataclasses import dataclass, fields

from PIL import Image


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """How many pixels and frames a medium may have, and what stands in for a medium that is absent.

    Pixels count after resizing; 28 x 28 of them make one visual token (in a video: of two frames).

    Attributes:
        video_min_pixels, video_max_pixels: of one frame.
        num_frames: most frames of a video.
        blank_image: what a text-only input gets. "evaluation": a white image of 4 visual tokens, as
            the released evaluation; "sft": one of 1 token, as the training data; "none": nothing.
        fetch_sizes: images, and videos that are lists of images, first go through the size rule and
            the resize of `qwen_vl_utils.fetch_image`, which all of the released inference does.
            That changes the grid of every fourth picture above `image_max_pixels`.
    """

    image_min_pixels: int = 784
    image_max_pixels: int = 2_359_296
    video_min_pixels: int = 128 * 28 * 28
    video_max_pixels: int = 768 * 28 * 28
    num_frames: int = 8
    blank_image: str = "evaluation"
    fetch_sizes: bool = False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name}: wants a positive whole number, got {value!r}")
        for kind in ("image", "video"):
            low, high = getattr(self, f"{kind}_min_pixels"), getattr(self, f"{kind}_max_pixels")
            if low > high:
                raise ValueError(f"{kind}_min_pixels: {low} is more than {kind}_max_pixels {high}")
        if self.blank_image not in _BLANK_SIDES:
            raise ValueError(
                f"blank_image: wants one of {list(_BLANK_SIDES)}, got {self.blank_image!r}"
            )
        if not isinstance(self.fetch_sizes, bool):
            raise TypeError(f"fetch_sizes: wants true or false, got {self.fetch_sizes!r}")

    @classmethod
    def from_dict(cls, values: dict) -> MediaLimits:
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"limits: unknown key {key!r}, wants any of {', '.join(known)}")
        return cls(**values)


# both loaders start from a white image of 28 x 28; `fetch_image` enlarges it to its minimum
_BLANK_SIDES = {"evaluation": 56, "sft": 28, "none": 0}

EVALUATION_LIMITS = MediaLimits(fetch_sizes=True)
SFT_LIMITS = MediaLimits(
    image_min_pixels=768,
    video_min_pixels=4 * 28 * 28,
    video_max_pixels=32 * 28 * 28,
    blank_image="sft",
)


def blank_image(rule: str) -> Image.Image | None:
    """The white image of a text-only input under `MediaLimits.blank_image`; None under "none"."""
    side = _BLANK_SIDES[rule]
    return Image.new("RGB", (side, side), (255, 255, 255)) if side else None
