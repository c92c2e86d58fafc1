"""Size and end of a picture, read from its outline without decoding a pixel.

    outline = picture_outline(data, "png")      # Outline(width=640, height=480, end=len(data))

A file that does not keep to its format's outline, or has more parts than any true picture, is
refused. TIFF has no linear outline: its size is what Pillow reads from the first directory.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass

from PIL import Image

from umer1.serving.media.refusals import MediaRefused, damaged, too_large

# parts of one file; each costs a step in Python, and a progressive JPEG a pass over all pixels
_MOST_PARTS, _MOST_SCANS = 1 << 18, 100
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the next one after entropy-coded data


@dataclass(frozen=True, slots=True)
class Outline:
    """width, height: pixels. end: bytes up to the end of the picture; -1 where none is known."""

    width: int
    height: int
    end: int


def picture_outline(data: bytes, name: str) -> Outline:
    """Of a file that begins as `name`. Raises MediaRefused if it is cut short or broken."""
    if name == "tiff":
        return Outline(*header_size(data, name), -1)
    try:
        return _READERS[name](data)
    except (struct.error, IndexError):
        raise damaged(f"a {name} file that is cut short: {len(data)} bytes") from None


def header_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) as Pillow reads them, which decides what the decoder will make room for.

    Raises MediaRefused if Pillow does not take the header.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(f"a {name} file of more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception:  # whatever a hostile header makes a parser raise
        raise damaged(f"a {name} file with a broken header") from None


def _png(data: bytes) -> Outline:
    place, size = 8, None
    for _ in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", data, place)
        if (kind == b"IHDR") != (size is None) or not kind.isalpha():
            raise damaged("a png file with broken chunks")
        if size is None:
            size = struct.unpack_from(">II", data, place + 8)
        place += 12 + length
        if kind == b"IEND":
            return Outline(*size, place)
    raise _too_many_parts("png")


def _jpeg(data: bytes) -> Outline:
    place, scans, width, height = 2, 0, 0, 0
    for _ in range(_MOST_PARTS):
        while data[place] == 0xFF and data[place + 1] == 0xFF:
            place += 1
        if data[place] != 0xFF:
            raise damaged("a jpeg file with broken segments")
        marker = data[place + 1]
        place += 2
        if marker == 0xD9:
            return Outline(width, height, place)
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            lines, columns = struct.unpack_from(">HH", data, place + 3)
            width, height = max(width, columns), max(height, lines)
        place += length
        if marker == 0xDA:
            scans += 1
            if scans > _MOST_SCANS:
                raise too_large(f"a jpeg file of more than {_MOST_SCANS} scans")
            found = _JPEG_MARKER.search(data, place)
            if found is None:
                raise damaged("a jpeg file that is cut short: no end of image")
            place = found.start()
    raise _too_many_parts("jpeg")


def _gif(data: bytes) -> Outline:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + _colours(flags)
    parts = 0
    while (block := data[place]) != 0x3B:
        if block == 0x2C:
            left, top, columns, lines, flags = struct.unpack_from("<HHHHB", data, place + 1)
            width, height = max(width, left + columns), max(height, top + lines)
            place += 11 + _colours(flags)
        elif block == 0x21:
            place += 2
        else:
            raise damaged("a gif file with broken blocks")
        while length := data[place]:
            place += 1 + length
            parts += 1
        place += 1
        parts += 1
        if parts > _MOST_PARTS:
            raise _too_many_parts("gif")
    return Outline(width, height, place + 1)


def _colours(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Outline:
    (size,) = struct.unpack_from("<I", data, 4)
    first = data[12:16]
    if first == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif first == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif first == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise damaged("a webp file with a broken first chunk")
    return Outline(width, height, 8 + size)


def _bmp(data: bytes) -> Outline:
    size, pixels, header = struct.unpack_from("<I4xII", data, 2)
    if header == 12:
        width, height, bits = struct.unpack_from("<HH2xH", data, 18)
    else:
        width, height, bits = struct.unpack_from("<ii2xH", data, 18)
    (packing,) = struct.unpack_from("<I", data, 30) if header > 12 else (0,)
    width, height = abs(width), abs(height)
    # rows are filled to 4 bytes; packed rows have no size of their own
    needed = pixels + (0 if packing in (1, 2) else (width * bits + 31) // 32 * 4 * height)
    return Outline(width, height, max(size, needed))


def _too_many_parts(name: str) -> MediaRefused:
    return too_large(f"a {name} file of more than {_MOST_PARTS} parts")


_READERS = {"png": _png, "jpeg": _jpeg, "gif": _gif, "webp": _webp, "bmp": _bmp}
