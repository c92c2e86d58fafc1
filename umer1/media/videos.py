"""The frames of a video: from a list, a directory, or a video file."""

from __future__ import annotations

import importlib.util
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from umer1.media.images import MAX_PIXELS, load_image
from umer1.media.sources import VIDEO_BYTES, MediaError, local_path, read_uri, shorten

FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# bounds on frames asked for per second, of qwen-vl-utils
FPS_FRAMES = 4, 768


def load_video(
    source: Any, where: str = "video", num_frames: int = 8, fps: float | None = None
) -> list[Image.Image]:
    """At most `num_frames` RGB frames of one size, evenly spread over the video.

    Frames given as images, as a list or a directory (in natural order), are all used when there are no more than
    `num_frames`, else those at linspace(0, last, num_frames), rounded down as in VLM2Vec. Of a video file the frames
    are those at linspace, rounded, as in qwen-vl-utils. `fps`, which counts for video files only, asks for that many
    frames a second instead.

    Raises MediaError for whatever is missing, unreadable, empty or too large.
    """
    if isinstance(source, np.ndarray):
        source = list(source)
    if isinstance(source, (list, tuple)):
        return _from_images(list(source), where, num_frames)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), where, f"{len(source)} bytes", num_frames, fps)
    if not isinstance(source, (str, os.PathLike)):
        raise MediaError(
            f"{where}: wants a list of frames, a path, a URI or bytes, got {type(source).__name__}"
        )
    path = local_path(source, where)
    if path is None:
        data = read_uri(source, where, VIDEO_BYTES)
        return _from_file(io.BytesIO(data), where, shorten(source, 60), num_frames, fps)
    if path.is_dir():
        files = sorted(
            (file for file in path.iterdir() if file.suffix.lower() in FRAME_SUFFIXES), key=_natural
        )
        if not files:
            raise MediaError(f"{where}: no frames (*.jpg, *.png, …) in the directory {path}")
        return _from_images(files, where, num_frames)
    return _from_file(path, where, str(path), num_frames, fps)


def _from_images(sources: list, where: str, num_frames: int) -> list[Image.Image]:
    if not sources:
        raise MediaError(f"{where}: a video of no frames")
    places = range(len(sources))
    if len(sources) > num_frames:
        places = np.linspace(0, len(sources) - 1, num_frames, dtype=int).tolist()
    frames = [load_image(sources[place], f"{where}, frame {place}") for place in places]
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise MediaError(f"{where}: frames of different sizes, {sizes[0]} and {sizes[1]}")
    return frames


def _from_file(
    file: Any, where: str, name: str, num_frames: int, fps: float | None
) -> list[Image.Image]:
    if importlib.util.find_spec("torchcodec") is not None:
        from umer1.media.decoders import torchcodec_frames as decode
    elif importlib.util.find_spec("av") is not None:
        from umer1.media.decoders import av_frames as decode
    else:
        raise MediaError(
            f"{where}: video files need PyAV (pip install av) or torchcodec; frame lists do not: {name}"
        )
    try:
        return decode(
            file, lambda total, rate: frame_places(total, rate, num_frames, fps), MAX_PIXELS
        )
    except MediaError as error:
        raise MediaError(f"{where}: {error}: {name}") from None
    except Exception as error:  # decoders raise their own families of errors
        raise MediaError(f"{where}: cannot decode the video ({error}): {name}") from None


def frame_places(total: int, rate: float, num_frames: int, fps: float | None) -> list[int]:
    """Which of `total` frames at `rate` per second to take."""
    if total < 1:
        raise MediaError("a video of no frames")
    count = num_frames
    if fps is not None:
        if rate <= 0:
            raise MediaError("a video without a frame rate, 'fps' cannot be met")
        least, most = FPS_FRAMES
        count = int(min(max(total / rate * fps, least), most, total)) // 2 * 2 or 1
    count = min(count, total)
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
