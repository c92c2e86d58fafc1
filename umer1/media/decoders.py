"""Chosen frames of a video file, decoded by torchcodec or by PyAV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from umer1.media.sources import MediaError

Places = Callable[
    [int, float], list[int]
]  # (frames in all, frames per second) -> ascending frame numbers


def torchcodec_frames(file: Any, places: Places, max_pixels: int) -> list[Image.Image]:
    """Frames of a path or of a binary stream."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        str(file) if isinstance(file, Path) else file.read(), dimension_order="NHWC"
    )
    _check_size(decoder.metadata.width, decoder.metadata.height, max_pixels)
    total, rate = decoder.metadata.num_frames or 0, decoder.metadata.average_fps or 0.0
    return [
        Image.fromarray(frame.numpy()) for frame in decoder.get_frames_at(places(total, rate)).data
    ]


def av_frames(file: Any, places: Places, max_pixels: int) -> list[Image.Image]:
    """As `torchcodec_frames`. Decodes from the start up to the last frame wanted."""
    total, rate = _av_count(file, max_pixels, trust_header=True)
    frames = _av_take(file, places(total, rate), max_pixels)
    if frames is None:  # the header promised more frames than there are
        total, rate = _av_count(file, max_pixels, trust_header=False)
        frames = _av_take(file, places(total, rate), max_pixels)
    if frames is None:
        raise MediaError("a video whose frames cannot be counted")
    return frames


def _av_count(file: Any, max_pixels: int, trust_header: bool) -> tuple[int, float]:
    with _av_open(file) as container:
        stream = _av_stream(container, max_pixels)
        rate = float(stream.average_rate or 0)
        if trust_header and stream.frames > 0:
            return stream.frames, rate
        return sum(1 for _ in container.decode(stream)), rate


def _av_take(file: Any, numbers: list[int], max_pixels: int) -> list[Image.Image] | None:
    wanted, frames = set(numbers), {}
    with _av_open(file) as container:
        for number, frame in enumerate(container.decode(_av_stream(container, max_pixels))):
            if number in wanted:
                _check_size(frame.width, frame.height, max_pixels)
                frames[number] = frame.to_image()
            if number >= numbers[-1]:
                return [frames[number] for number in numbers]
    return None


def _av_open(file: Any):
    import av

    if not isinstance(file, Path):
        file.seek(0)
        return av.open(file)
    return av.open(str(file))


def _av_stream(container: Any, max_pixels: int):
    if not container.streams.video:
        raise MediaError("no video in the file")
    stream = container.streams.video[0]
    _check_size(stream.width, stream.height, max_pixels)
    stream.thread_type = "AUTO"
    return stream


def _check_size(width: int | None, height: int | None, max_pixels: int) -> None:
    if (width or 0) * (height or 0) > max_pixels:
        raise MediaError(f"frames of {width} x {height} pixels, wants at most {max_pixels} pixels")
