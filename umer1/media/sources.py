"""Bytes from a path, a URL or a data URI, within limits that hold against hostile input."""

from __future__ import annotations

import base64
import binascii
import os
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path

MIB = 1 << 20
IMAGE_BYTES, VIDEO_BYTES = 64 * MIB, 1024 * MIB  # most that is read from a URL or a data URI
STALL_SECONDS, TOTAL_SECONDS = 10.0, 120.0  # of silence on a connection; for a whole download
MAX_REDIRECTS = 5
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
    """An image or video that cannot be used. The message names the item, the field and the reason."""


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
                f"{where}: cannot open {shorten(text)}: wants a path or a file, http, https or data URI"
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
    return _data(uri, where, limit) if uri.startswith("data:") else _download(uri, where, limit)


def shorten(text: str, length: int = 120) -> str:
    """For messages: a URI may hold megabytes."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def _data(uri: str, where: str, limit: int) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma:
        raise MediaError(f"{where}: data URI without a comma: {shorten(uri)}")
    if len(payload) > limit * 4 // 3 + 4:
        raise MediaError(
            f"{where}: data URI of {len(payload)} characters, wants at most {limit // MIB} MiB of data"
        )
    if not header.endswith(";base64"):
        return urllib.parse.unquote_to_bytes(payload)
    try:
        return base64.b64decode(urllib.parse.unquote(payload), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{where}: data URI with broken base64: {error}") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, request, response, code, message, headers, url):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise urllib.error.URLError(f"redirected to {shorten(url)}, wants http or https")
        return super().redirect_request(request, response, code, message, headers, url)


def _download(url: str, where: str, limit: int) -> bytes:
    deadline = time.monotonic() + TOTAL_SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": "umer1"})
    chunks, size = [], 0
    try:
        with urllib.request.build_opener(_Redirects).open(
            request, timeout=STALL_SECONDS
        ) as response:
            # read1 returns what has arrived, so a slow drip meets the deadline
            while chunk := response.read1(1 << 16):
                size += len(chunk)
                chunks.append(chunk)
                if size > limit:
                    raise MediaError(f"{where}: {shorten(url)} is larger than {limit / MIB:g} MiB")
                if time.monotonic() > deadline:
                    raise MediaError(
                        f"{where}: {shorten(url)} took longer than {TOTAL_SECONDS:g} s"
                    )
            if response.length:
                raise MediaError(f"{where}: {shorten(url)} ended {response.length} bytes early")
    except MediaError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
    ) as error:  # URLError, timeouts and HTTP protocol errors among them
        reason = getattr(error, "reason", None) or error
        raise MediaError(f"{where}: cannot download {shorten(url)}: {reason}") from None
    return b"".join(chunks)
