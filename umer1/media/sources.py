"""Bytes from a path, a URL or a data URI, within limits that hold against hostile input."""

from __future__ import annotations

import base64
import binascii
import os
import struct
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

from umer1.media.download import DownloadError, download

MIB = 1 << 20
IMAGE_BYTES, VIDEO_BYTES = 64 * MIB, 1024 * MIB  # most that is read from a URL or a data URI
# what decoders of damaged files raise
DECODER_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class MediaError(ValueError):
    """An image or video that cannot be used. The message names item, field and reason."""


def local_path(source: str | os.PathLike, where: str) -> Path | None:
    """The existing path that `source` names; None if it is a URL or a data URI."""
    text = os.fspath(source)
    scheme, colon, _ = text.partition(":")
    if isinstance(source, str) and colon:
        if scheme in ("http", "https", "data"):
            return None
        if scheme == "file":
            text = urllib.request.url2pathname(urllib.parse.urlsplit(text).path)
        elif text.startswith(f"{scheme}://"):
            raise MediaError(
                f"{where}: cannot open {shorten(text)}: "
                "wants a path or a file, http, https or data URI"
            )
    if not text:
        raise MediaError(f"{where}: is an empty string, wants a path or a URI")
    if "\0" in text or not os.path.exists(text):
        raise MediaError(f"{where}: no such file: {shorten(text)}")
    if not (os.path.isfile(text) or os.path.isdir(text)):
        raise MediaError(f"{where}: not a regular file: {text}")  # a pipe would block for ever
    return Path(text)


def read_uri(uri: str, where: str, limit: int) -> bytes:
    """The bytes behind an http, https or data URI; at most `limit` of them."""
    if uri.startswith("data:"):
        return _data(uri, where, limit)
    try:
        return download(uri, limit)
    except DownloadError as error:
        raise MediaError(f"{where}: cannot download {shorten(uri)}: {error}") from None


def shorten(text: str, length: int = 120) -> str:
    """For messages: a URI may hold megabytes."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def _data(uri: str, where: str, limit: int) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma:
        raise MediaError(f"{where}: data URI without a comma: {shorten(uri)}")
    if len(payload) > limit * 4 // 3 + 4:
        raise MediaError(
            f"{where}: data URI of {len(payload)} characters, "
            f"wants at most {limit // MIB} MiB of data"
        )
    if not header.endswith(";base64"):
        return urllib.parse.unquote_to_bytes(payload)
    try:
        return base64.b64decode(urllib.parse.unquote(payload), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{where}: data URI with broken base64: {error}") from None
