"""The frames of a video: from a list, a directory, or a video file."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from umer1.media.decoders import video_decoder
from umer1.media.images import load_image, max_pixels
from umer1.media.sources import (
    DECODER_ERRORS,
    VIDEO_BYTES,
    MediaError,
    local_path,
    read_uri,
    shorten,
)

FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# fewest and most frames that `fps` gives, in qwen-vl-utils
FPS_FRAMES = 4, 768


def load_video(
    source: Any, where: str = "video", num_frames: int = 8, fps: float | None = None
) -> list[Image.Image]:
    """At most `num_frames` RGB frames of one size, evenly spread over the video.

    Frames given as images, in a list or a directory (natural order), are all used when there are no
    more than `num_frames`, else those at linspace(0, last, num_frames), rounded down as in VLM2Vec.
    Of a video file, those at linspace, rounded to the nearest as in qwen-vl-utils. `fps` asks for
    that many frames a second of a video file instead; it does not count for images.

    Raises MediaError for whatever is missing, unreadable, empty or too large.
    """
    if isinstance(source, np.ndarray):
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _from_images(list(source), where, num_frames)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), where, f"{len(source)} bytes", num_frames, fps)
    if not isinstance(source, os.PathLike) and hasattr(source, "read_bytes"):
        return load_video(source.read_bytes(), where, num_frames, fps)
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(
            f"{where}: wants a list of frames, a path, a URI or bytes, got {type(source).__name__}"
        )
    path = local_path(source, where)
    if path is None:
        file = io.BytesIO(read_uri(source, where, VIDEO_BYTES))
        return _from_file(file, where, shorten(source, 60), num_frames, fps)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in FRAME_SUFFIXES]
        if not files:
            raise MediaError(f"{where}: no frames (.jpg, .png, …) in the directory {path}")
        return _from_images(sorted(files, key=_natural), where, num_frames)
    try:
        with open(path, "rb") as file:
            return _from_file(file, where, str(path), num_frames, fps)
    except OSError as error:
        raise MediaError(f"{where}: cannot read {path}: {error.strerror or error}") from None


def has_separate_frames(source: Any) -> bool:
    """Whether a video source is a list or directory of images, not a video file."""
    if isinstance(source, (list, tuple, np.ndarray)):
        return True
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = local_path(source, "video")
    return path is not None and path.is_dir()


def frame_places(total: int, rate: float, num_frames: int, fps: float | None = None) -> list[int]:
    """Which of `total` frames of a video file, at `rate` per second, to take."""
    if total < 1:
        raise MediaError("a video of no frames")
    count = num_frames
    if fps is not None:
        if rate <= 0:
            raise MediaError("a video without a frame rate: 'fps' cannot be met, give 'nframes'")
        least, most = FPS_FRAMES
        count = int(min(max(total / rate * fps, least), most, total)) // 2 * 2
    count = max(1, min(count, total))
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def _from_images(sources: list, where: str, num_frames: int) -> list[Image.Image]:
    if not sources:
        raise MediaError(f"{where}: a video of no frames")
    places = list(range(len(sources)))
    if len(sources) > num_frames:
        places = np.linspace(0, len(sources) - 1, num_frames, dtype=int).tolist()
    frames = [load_image(sources[place], f"{where}, frame {place}") for place in places]
    for place, frame in zip(places, frames, strict=True):
        if frame.size != frames[0].size:
            raise MediaError(
                f"{where}: frames of different sizes, frame {places[0]} of {frames[0].size} and "
                f"frame {place} of {frame.size}"
            )
    return frames


def _from_file(
    file: Any, where: str, name: str, num_frames: int, fps: float | None
) -> list[Image.Image]:
    decoder = video_decoder()
    if decoder is None:
        raise MediaError(
            f"{where}: video files need PyAV (pip install av) or torchcodec; "
            f"a list or directory of frames needs neither: {name}"
        )
    try:
        return decoder(
            file, lambda total, rate: frame_places(total, rate, num_frames, fps), max_pixels()
        )
    except MediaError as error:
        raise MediaError(f"{where}: {error}: {name}") from None
    except DECODER_ERRORS as error:
        raise MediaError(f"{where}: cannot decode the video ({error}): {name}") from None


def _natural(path: Path) -> list:
    """Sort key by which frame_10 comes after frame_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
