"""Which files a request may bring, told by their first bytes, and what must not hide in them."""

from __future__ import annotations

import re
from collections.abc import Callable

from umer1.serving.media.refusals import damaged, unsupported

# what may be declared for each format; the first is the registered one
FORMATS = {
    "image": {
        "png": ("image/png", "image/x-png", "image/apng"),
        "jpeg": ("image/jpeg", "image/jpg", "image/pjpeg"),
        "webp": ("image/webp",),
        "gif": ("image/gif",),
        "bmp": ("image/bmp", "image/x-ms-bmp", "image/x-bmp"),
        "tiff": ("image/tiff", "image/tif"),
    },
    "video": {
        "mp4": ("video/mp4", "video/x-m4v"),
        "mov": ("video/quicktime",),
        "webm": ("video/webm",),
        "mkv": ("video/x-matroska", "video/matroska", "video/mkv"),
    },
}
MEDIA_TYPES = {
    kind: tuple(media_type for types in formats.values() for media_type in types)
    for kind, formats in FORMATS.items()
}
# first boxes of QuickTime files from before `ftyp`
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# pictures in MP4's clothes: a video decoder would take them for one frame
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"jxl ")
# text that other programs would run or show, near the front where they look for it
_ACTIVE_TEXT = re.compile(rb"<!doctype|<html|<script|<svg|<\?xml-stylesheet|%PDF-|<\?php", re.I)
_FOREIGN_FILES = re.compile(
    rb"PK\x03\x04|PK\x05\x06|Rar!\x1a|7z\xbc\xaf\x27\x1c|\x7fELF|\x1f\x8b\x08|#!/|\xca\xfe\xba\xbe"
)
_FRONT, _ZIP_COMMENT = 2048, 1 << 16


def file_format(data: bytes, kind: str, declared: str | None) -> str:
    """The format's name in `FORMATS[kind]`.

    declared: the media type that came with the file (None: none came); it must be the true one.

    Raises MediaRefused for anything else, and for a file that is also an archive, a document or a
    page.
    """
    name = next((name for name, begins in _SIGNATURES.items() if begins(data)), None)
    formats = FORMATS[kind]
    if name not in formats:
        found = f"a {name} file" if name else _description(data)
        raise unsupported(f"{found}, wants {kind} data: {', '.join(formats)}")
    if declared is not None and declared not in formats[name]:
        raise unsupported(f"declared as {declared} but the data are {name} ({formats[name][0]})")
    if _ACTIVE_TEXT.search(data, 0, _FRONT):
        raise unsupported(f"a {name} file that is also a page or a document")
    if _ends_as_zip(data):
        raise unsupported(f"a {name} file that is also a zip archive")
    return name


def check_tail(name: str, data: bytes, end: int, *, may_follow: bool) -> None:
    """`data` must end at `end`; zeros may follow, and, if `may_follow`, what cameras append.

    Raises MediaRefused.
    """
    if end > len(data):
        raise damaged(f"a {name} file that is cut short: {len(data)} bytes, wants {end}")
    tail = data[end:].strip(b"\0\r\n")
    foreign = _ACTIVE_TEXT.search(tail) or _FOREIGN_FILES.search(tail)
    if tail and (foreign or not may_follow):
        raise unsupported(f"a {name} file with {len(tail)} bytes of something else after its end")


def _iso_media(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] not in _STILL_BRANDS


def _ebml(data: bytes, document_type: bytes) -> bool:
    # the document type stands in the header element, which is short
    return (
        data[:4] == b"\x1a\x45\xdf\xa3"
        and b"\x42\x82" in (front := data[:128])
        and (document_type in front[front.index(b"\x42\x82") :][:16])
    )


_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "jpeg": lambda data: data.startswith(b"\xff\xd8\xff"),
    "webp": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    "gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "bmp": lambda data: data[:2] == b"BM" and data[6:10] == bytes(4),
    "tiff": lambda data: data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "mov": lambda data: (_iso_media(data) and data[8:12] == b"qt  ") or data[4:8] in _OLD_QUICKTIME,
    "mp4": _iso_media,
    "webm": lambda data: _ebml(data, b"webm"),
    "mkv": lambda data: _ebml(data, b"matroska"),
}


def _description(data: bytes) -> str:
    front = data[:_FRONT].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data.strip(b"\0"):
        return "no data but zeros" if data else "no data"
    if b"<svg" in front:
        return "an SVG drawing"
    if front.startswith((b"<!doctype", b"<html", b"<script", b"<?xml", b"<")):
        return "a page or XML"
    if front.startswith(b"%pdf"):
        return "a PDF document"
    if front.startswith(b"%!ps"):
        return "a PostScript program"
    if front.startswith(b"pk"):
        return "a zip archive"
    if front.startswith(b"#extm3u"):
        return "a playlist"
    return "data of an unknown kind"


def _ends_as_zip(data: bytes) -> bool:
    """An archive is read from its end: its last record and a comment that fills the file."""
    record = data.rfind(b"PK\x05\x06", max(0, len(data) - 22 - _ZIP_COMMENT))
    if record < 0:
        return False
    comment = int.from_bytes(data[record + 20 : record + 22], "little")
    return len(data) - record - 22 <= comment
