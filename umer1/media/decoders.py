"""Chosen frames of a video file, decoded by torchcodec or by PyAV.

Both read an open binary file, never a name: FFmpeg would follow the addresses in a playlist.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from PIL import Image

from umer1.media.sources import MediaError

Places = Callable[[int, float], list[int]]  # (frames in all, frames a second) -> ascending numbers
Decoder = Callable[
    [Any, Places, float], list[Image.Image]
]  # (file, places, most pixels of a frame)

# of the frames that a file's header promises, this share must be there
_COMPLETE = 0.9


@cache
def video_decoder() -> Decoder | None:
    """The decoder in use: torchcodec's where it can be imported, else PyAV's; None without both."""
    try:
        import torchcodec.decoders  # noqa: F401

        return torchcodec_frames
    except (
        ImportError,
        OSError,
        RuntimeError,
    ):  # it raises the last two without FFmpeg's libraries
        pass
    try:
        import av  # noqa: F401

        return av_frames
    except ImportError:
        return None


def torchcodec_frames(file: Any, places: Places, max_pixels: float) -> list[Image.Image]:
    """The frames whose numbers `places` picks."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(file, dimension_order="NHWC")
    _check_size(decoder.metadata.width, decoder.metadata.height, max_pixels)
    total, rate = decoder.metadata.num_frames or 0, decoder.metadata.average_fps or 0.0
    frames = decoder.get_frames_at(indices=places(total, rate)).data
    return [Image.fromarray(frame.numpy()) for frame in frames]


def av_frames(file: Any, places: Places, max_pixels: float) -> list[Image.Image]:
    """As `torchcodec_frames`. Decodes from the start up to the last frame wanted."""
    import av

    try:
        promised, rate = _header(file, max_pixels)
        if promised:
            frames, present = _take(file, places(promised, rate), max_pixels)
            if frames:
                return frames
            if present < _COMPLETE * promised:
                raise MediaError(f"cut short: {present} of {promised} frames")
        present = _take(file, [], max_pixels)[1]
        return _take(file, places(present, rate), max_pixels)[0]
    except av.FFmpegError as error:
        raise MediaError(f"cannot decode the video ({error.strerror or error})") from None


def _header(file: Any, max_pixels: float) -> tuple[int, float]:
    """Frames in all as the header says (0 where it does not), and frames a second."""
    with _open(file) as container:
        stream = _stream(container, max_pixels)
        return stream.frames, float(stream.average_rate or 0)


def _take(file: Any, numbers: list[int], max_pixels: float) -> tuple[list[Image.Image], int]:
    """The frames with these ascending numbers, empty if they are not all there, and the count of
    frames decoded."""
    wanted, frames, present = set(numbers), {}, 0
    with _open(file) as container:
        for number, frame in enumerate(container.decode(_stream(container, max_pixels))):
            present = number + 1
            if number in wanted:
                _check_size(frame.width, frame.height, max_pixels)
                frames[number] = frame.to_image()
                if number == numbers[-1]:
                    return [frames[number] for number in numbers], present
    return [], present


def _open(file: Any):
    import av

    file.seek(0)
    # no protocol has this name: nothing but `file` can be opened
    return av.open(file, options={"protocol_whitelist": "none"})


def _stream(container: Any, max_pixels: float):
    if not container.streams.video:
        raise MediaError("no video in the file")
    stream = container.streams.video[0]
    _check_size(stream.width, stream.height, max_pixels)
    # frames in the stream have sizes of their own: small at first, huge later. The decoder's own
    # planes are somewhat larger than the picture
    room = 2 * stream.width * stream.height + (1 << 18)
    stream.codec_context.options = {"max_pixels": str(room)}
    stream.thread_type = "AUTO"
    return stream


def _check_size(width: int | None, height: int | None, max_pixels: float) -> None:
    if (width or 0) * (height or 0) > max_pixels:
        raise MediaError(f"frames of {width} x {height} pixels, wants at most {max_pixels:.0f}")
