"""The patches of one medium: loaded, and resized within the limits that hold for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from umer1.media.images import load_image
from umer1.media.limits import MediaLimits
from umer1.media.pixels import PixelFormat, fetched_image, image_patches, video_patches
from umer1.media.sources import MediaError
from umer1.media.videos import has_separate_frames, load_video

if TYPE_CHECKING:
    from umer1.prompts import Medium

# visual tokens in qwen-vl-utils: of one image, least and most; of all frames of a video, most
_FETCH_TOKENS, _VIDEO_TOKENS = (4, 16384), 128_000 * 0.9


def medium_patches(
    medium: Medium, limits: MediaLimits, pixel_format: PixelFormat
) -> tuple[Tensor, Tensor]:
    """Patches float32 [P, patch_dim] and grid int64 [3] of an image or video.

    Raises MediaError that begins with `medium.where`.
    """
    where = medium.where or f"the {medium.kind}"
    if medium.kind == "image":
        image = load_image(medium.source, where)
    else:
        count = medium.num_frames or limits.num_frames
        frames = load_video(medium.source, where, count, medium.fps)
    try:
        if medium.kind == "image":
            return _image(image, medium, limits, pixel_format)
        return _video(frames, medium, limits, pixel_format)
    except MediaError as error:
        raise MediaError(f"{where}: {error}") from None


def _image(image: Image.Image, medium: Medium, limits: MediaLimits, pixel_format: PixelFormat):
    low, high = limits.image_min_pixels, limits.image_max_pixels
    if limits.fetch_sizes:
        # the medium's own limits are fetch_image's; the model's come after it
        image = _fetched(image, medium, pixel_format)
    else:
        low, high = _narrowed(medium, low, high)
    return image_patches(image, pixel_format, low, high)


def _video(
    frames: list[Image.Image], medium: Medium, limits: MediaLimits, pixel_format: PixelFormat
):
    low, high = _narrowed(medium, limits.video_min_pixels, limits.video_max_pixels)
    # as in fetch_video, frames share a budget; the default one tells above 300 frames only
    budget = medium.total_pixels or _VIDEO_TOKENS * pixel_format.factor**2
    share = int(budget / len(frames) * pixel_format.temporal_patch_size)
    high = max(low, min(high, max(share, int(low * 1.05))))
    if limits.fetch_sizes and has_separate_frames(medium.source):
        frames = [_fetched(frame, medium, pixel_format) for frame in frames]
    return video_patches(frames, pixel_format, low, high, limits.fetch_sizes)


def _fetched(image: Image.Image, medium: Medium, pixel_format: PixelFormat) -> Image.Image:
    low, high = (tokens * pixel_format.factor**2 for tokens in _FETCH_TOKENS)
    return fetched_image(image, pixel_format.factor, *_narrowed(medium, low, high))


def _narrowed(medium: Medium, low: int, high: int) -> tuple[int, int]:
    """The limits with the medium's own in their place; those may not raise `high`."""
    high = min(high, medium.max_pixels or high)
    return min(medium.min_pixels or low, high), high
