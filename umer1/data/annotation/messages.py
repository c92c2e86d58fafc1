"""A question as chat messages: media as data URIs of bounded size, then the words."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from umer1.data.annotation.sides import Question

_SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png"}
_SMALLEST_SIDE = 28  # pixels; training enlarges smaller pictures in the same way
_ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, slots=True)
class SentMedia:
    """Most pixels of a picture and of a frame, most frames of a video, most bytes of either's file.

    The pixels are those of training and of evaluation, so that the teacher sees no less than the
    student.
    """

    image_pixels: int = 2_359_296
    frame_pixels: int = 768 * 28 * 28
    frames: int = 8
    max_bytes: int = 4 << 20

    def __post_init__(self):
        for field in fields(self):
            value, least = getattr(self, field.name), 1
            if field.name != "frames":
                least = _SMALLEST_SIDE**2
            if type(value) is not int or value < least:
                raise ValueError(f"{field.name}: wants a whole number from {least}, got {value!r}")


def messages(
    words: str, question: Question, system: str, limits: SentMedia, where: str
) -> list[dict[str, Any]]:
    """Raises umer1.media.MediaError, which begins with `where`, for a medium that cannot be used."""
    pictures = [
        {"type": "image_url", "image_url": {"url": uri}} for uri in _uris(question, limits, where)
    ]
    content: str | list = [*pictures, {"type": "text", "text": words}] if pictures else words
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": content}]


def _uris(question: Question, limits: SentMedia, where: str) -> list[str]:
    from umer1.media import load_video

    if question.is_video:
        frames = load_video(_source(question), f"{where}, video", num_frames=limits.frames)
        return [_encoded(frame, limits.frame_pixels, limits.max_bytes, where) for frame in frames]
    return [
        image_uri(image, limits.image_pixels, limits.max_bytes, f"{where}, image {place}")
        for place, image in enumerate(question.media)
    ]


def _source(question: Question) -> Any:
    """A list of frames, or the one directory or file that a video may be named by."""
    only = question.media[0]
    whole = len(question.media) == 1 and isinstance(only, str)
    if whole and Path(only).suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):
        return only
    return list(question.media)


def image_uri(source: str | bytes, max_pixels: int, max_bytes: int, where: str) -> str:
    """A picture as a data URI. A JPEG or PNG within the limits is sent as it is, unless it would look
    different to the student (turned by EXIF, transparent); all others become JPEG."""
    from PIL import Image

    from umer1.media import load_image

    content = source if isinstance(source, bytes) else None
    image = load_image(source, where)
    if content is None and Path(source).stat().st_size <= max_bytes:
        content = Path(source).read_bytes()
    if content is not None and len(content) <= max_bytes:
        with Image.open(io.BytesIO(content)) as original:
            kind = _SENT_AS_THEY_ARE.get(original.format or "")
            plain = original.mode in ("RGB", "L") and original.getexif().get(_ORIENTATION, 1) == 1
        fits = image.width * image.height <= max_pixels and min(image.size) >= _SMALLEST_SIDE
        if kind and plain and fits:
            return f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return _encoded(image, max_pixels, max_bytes, where)


def _encoded(image: Any, max_pixels: int, max_bytes: int, where: str) -> str:
    """An RGB image as JPEG, made smaller until it fits."""
    from PIL import Image

    from umer1.media import MediaError
    from umer1.media.pixels import enlarge

    try:
        image = enlarge(image, _SMALLEST_SIDE)
    except MediaError as error:
        raise MediaError(f"{where}: {error}") from None
    scale = min(1.0, (max_pixels / (image.width * image.height)) ** 0.5)
    while True:
        size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        small = image if scale == 1 else image.resize(size, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=90)
        if file.tell() <= max_bytes:
            return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        if min(size) <= _SMALLEST_SIDE:
            raise MediaError(f"{where}: does not fit into {max_bytes} bytes")
        scale *= 0.7
