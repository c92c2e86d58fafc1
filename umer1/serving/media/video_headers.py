"""Size, length and count of a video's frames, read without decoding one.

    check_container(data, "mp4")                 # its boxes fill the file
    outline = video_outline(data, "mp4")         # VideoOutline(width, height, frames, seconds)

The frames are counted by going through the packets: a header may say anything.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from umer1.media.sources import DECODER_ERRORS
from umer1.serving.media.refusals import MediaRefused, damaged, too_large, unsupported

# FFmpeg's readers; naming one keeps it from trying the others, playlists among them
_READERS = {"mp4": "mov", "mov": "mov", "webm": "matroska", "mkv": "matroska"}
_MOST_BOXES, _MOST_STREAMS = 1 << 16, 16


@dataclass(frozen=True, slots=True)
class VideoOutline:
    """width, height: pixels of one frame; frames: packets of the first video stream."""

    width: int
    height: int
    frames: int
    seconds: float


def check_container(data: bytes, name: str) -> None:
    """The outermost parts of the file must fill it. Raises MediaRefused."""
    try:
        end = _boxes(data, name) if name in ("mp4", "mov") else _segments(data, name)
    except IndexError:
        end = len(data) + 1
    if end > len(data):
        raise damaged(f"a {name} file that is cut short or has something else after its end")


def video_outline(data: bytes, name: str, most_frames: int) -> VideoOutline:
    """Of a whole file; more than `most_frames` packets are refused as soon as they are met.

    Raises MediaRefused if there is no video stream or FFmpeg does not take the file.
    """
    import av

    try:
        # no protocol has this name: nothing but the bytes given can be opened
        options = {"protocol_whitelist": "none"}
        with av.open(io.BytesIO(data), format=_READERS[name], options=options) as container:
            if not container.streams.video or len(container.streams) > _MOST_STREAMS:
                raise unsupported(
                    f"a {name} file of {len(container.streams)} streams, wants one video "
                    f"stream and at most {_MOST_STREAMS} in all"
                )
            return _outline(container, container.streams.video[0], name, most_frames)
    except MediaRefused:
        raise
    except (
        av.FFmpegError,
        *DECODER_ERRORS,
    ) as error:  # among them UnicodeDecodeError, of names in the file
        reason = error.strerror if isinstance(error, av.FFmpegError) else type(error).__name__
        raise damaged(f"a {name} file that cannot be read ({reason})") from None


def _outline(container, stream, name: str, most_frames: int) -> VideoOutline:
    if stream.codec_context is None:
        raise unsupported(f"a {name} file in a codec that is not known here")
    seconds = (container.duration or 0) / 1_000_000
    frames = 0
    for packet in container.demux(stream):
        if packet.size == 0:  # the last one only says that there are no more
            continue
        frames += 1
        if frames > most_frames:
            raise too_large(f"a video of more than {most_frames} frames")
        if packet.pts is not None and packet.time_base:
            seconds = max(seconds, float(packet.pts * packet.time_base))
    if frames == 0:
        raise damaged("a video of no frames")
    return VideoOutline(stream.width, stream.height, frames, seconds)


def _boxes(data: bytes, name: str) -> int:
    """Where the last box of an ISO file ends."""
    place, kinds = 0, set()
    for _ in range(_MOST_BOXES):
        size, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if len(kind) < 4:
            return len(data) + 1
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16])
        elif size == 0:
            size = len(data) - place
        if size < 8:
            raise damaged(f"a {name} file with broken boxes")
        kinds.add(kind)
        place += size
        if place >= len(data):
            break
    else:
        raise too_large(f"a {name} file of more than {_MOST_BOXES} boxes")
    if b"moov" not in kinds and place == len(data):
        raise damaged(f"a {name} file without a table of its frames (moov)")
    return place


def _segments(data: bytes, name: str) -> int:
    """Where the segment of an EBML file ends: its header element, then one segment to the end."""
    size, place = _number(data, 4)
    place += size
    if data[place : place + 4] != b"\x18\x53\x80\x67":
        raise damaged(f"a {name} file without a segment")
    size, start = _number(data, place + 4)
    if size < 0:  # written while it was streamed: to the end of the file
        return len(data)
    end = start + size
    return end if end == len(data) else len(data) + 1


def _number(data: bytes, place: int) -> tuple[int, int]:
    """(an EBML size, -1 if it is "unknown"; the place after it)."""
    length = 9 - data[place].bit_length()
    if length > 8:
        return len(data), place + 1
    value = int.from_bytes(data[place : place + length]) & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), place + length
