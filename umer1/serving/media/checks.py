"""The checks of one file that a request brought, and what decoding it will cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from umer1.media import MediaLimits
from umer1.media.videos import FPS_FRAMES
from umer1.prompts import Medium
from umer1.serving.media.kinds import check_tail, file_format
from umer1.serving.media.picture_headers import header_size, picture_outline
from umer1.serving.media.refusals import too_large
from umer1.serving.media.video_headers import check_container, video_outline

_TOKEN_PIXELS = 28 * 28  # of one visual token; of a video: of two frames


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What one medium, and all media of one request, may be.

    Attributes:
        image_pixels, image_side: of a picture as its file gives it, before resizing.
        video_pixels: of one frame.
        video_work: pixels of all frames: what decoding to the last one may cost.
        request_media, request_bytes: of all media of one request, downloads included.
    """

    image_bytes: int = 32 << 20
    image_pixels: int = 50_000_000
    image_side: int = 20_000
    video_bytes: int = 48 << 20
    video_pixels: int = 4096 * 2304
    video_frames: int = 20_000
    video_seconds: float = 600.0
    video_work: int = 20_000_000_000
    request_media: int = 1024
    request_bytes: int = 64 << 20


def check_picture(
    data: bytes, declared: str | None, medium: Medium, limits: GateLimits, sizes: MediaLimits
) -> int:
    """Visual tokens of a picture file, at most.

    Args:
        declared: the media type that came with it.
        medium: the settings of its part of the message.
        sizes: to which the processor resizes.

    Raises MediaRefused.
    """
    name = file_format(data, "image", declared)
    outline = picture_outline(data, name)
    _check_pixels(name, outline.width, outline.height, limits)
    if outline.end >= 0:
        # cameras put further pictures, clips and notes behind a JPEG
        check_tail(name, data, outline.end, may_follow=name == "jpeg")
        # a file with two headers: the one that Pillow goes by counts
        _check_pixels(name, *header_size(data, name), limits)
    pixels = outline.width * outline.height
    return _tokens(medium, pixels, sizes.image_min_pixels, sizes.image_max_pixels)


def check_video(
    data: bytes, declared: str | None, medium: Medium, limits: GateLimits, sizes: MediaLimits
) -> int:
    """As `check_picture`, of a video file."""
    name = file_format(data, "video", declared)
    check_container(data, name)
    outline = video_outline(data, name, limits.video_frames)
    pixels = outline.width * outline.height
    size = f"a {name} video of {outline.width} x {outline.height} pixels"
    if pixels > limits.video_pixels:
        raise too_large(f"{size}, wants at most {limits.video_pixels} in all")
    if outline.seconds > limits.video_seconds:
        raise too_large(
            f"a {name} video of {outline.seconds:.0f} s, wants at most {limits.video_seconds:.0f}"
        )
    if pixels * outline.frames > limits.video_work:
        raise too_large(
            f"{size} and {outline.frames} frames, wants at most {limits.video_work} pixels in all"
        )
    taken = medium.num_frames or sizes.num_frames
    if medium.fps is not None:
        least, most = FPS_FRAMES
        taken = min(max(least, math.ceil(outline.seconds * medium.fps)), most)
    taken = min(taken, outline.frames)
    one = _tokens(medium, pixels, sizes.video_min_pixels, sizes.video_max_pixels)
    return one * math.ceil(taken / 2)


def _tokens(medium: Medium, pixels: int, low: int, high: int) -> int:
    """Of one picture or pair of frames after resizing; the medium's own settings may lower `high`
    and replace `low`."""
    high = min(high, medium.max_pixels or high)
    low = min(medium.min_pixels or low, high)
    # sides are rounded to whole tokens
    return math.ceil(min(max(pixels, low) * 1.1, high) / _TOKEN_PIXELS)


def _check_pixels(name: str, width: int, height: int, limits: GateLimits) -> None:
    if max(width, height) > limits.image_side or width * height > limits.image_pixels:
        raise too_large(
            f"a {name} picture of {width} x {height} pixels, wants at most {limits.image_pixels} "
            f"in all and {limits.image_side} along a side"
        )
