"""Images and videos: loading them from wherever they are, and turning them into the patches a
vision tower reads.

An image source is a path, a `file://`, `http(s)://` or `data:` URI, bytes, a PIL image or a uint8
array [H, W, 3] or [H, W]. A video source is a list of images (its frames), a directory of frame
files, or a video file as path, URI or bytes. Either may also be an object whose `read_bytes()` gives
the file when it is needed. Every failure is a `MediaError` that begins with `where`.
"""

from umer1.media.images import load_image
from umer1.media.limits import EVALUATION_LIMITS, SFT_LIMITS, MediaLimits, blank_image
from umer1.media.patches import medium_patches
from umer1.media.pixels import (
    PixelFormat,
    check_ratio,
    fetched_image,
    image_patches,
    smart_resize,
    video_patches,
)
from umer1.media.sources import MediaError
from umer1.media.videos import has_separate_frames, load_video

__all__ = [
    "EVALUATION_LIMITS",
    "SFT_LIMITS",
    "MediaError",
    "MediaLimits",
    "PixelFormat",
    "blank_image",
    "check_ratio",
    "fetched_image",
    "has_separate_frames",
    "image_patches",
    "load_image",
    "load_video",
    "medium_patches",
    "smart_resize",
    "video_patches",
]
