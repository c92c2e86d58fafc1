"""How large a request's body may be, and how deep and wide its JSON, before anything parses it.

app.add_middleware(BodyLimits, most_bytes=settings.max_body_bytes)

The bytes that arrive are counted: a header may lie or be absent. JSON is looked at with its strings
cut out, so a picture of 40 MB in a string costs one pass and no parse.
"""

from __future__ import annotations

import asyncio
import re

from umer1.serving.errors import ApiError, send_error

MOST_DEPTH = 32  # Python's parser would go on to about a thousand and then raise
# values of a body, and strings: as Python objects each takes up to 60 bytes
MOST_VALUES = 1_000_000
# bodies that are held together, in largest bodies
_BODIES = 8
_INLINE_BYTES = 1 << 16  # a larger body is looked at in a thread
# possessive, so that no place is tried twice
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_NOT_NUMBERS = (b"NaN", b"Infinity")
# digits and points become "0", all else a space
_DIGITS = bytes(48 if byte in b"0123456789." else 32 for byte in range(256))
_LONG_NUMBER = b"0" * 400


class BodyLimits:
    """ASGI middleware: collects the body of a request and passes it on in one piece.

    Args:
        most_bytes: of one body: 413 beyond. All bodies held together may be eight times that: 429
            beyond.
    """

    def __init__(self, app, *, most_bytes: int):
        self.app, self.most_bytes = app, most_bytes
        self.held = 0  # bytes of all requests that are being answered

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = _Body(self)
        try:
            try:
                data = await body.read(scope, receive)
                if data and _is_json(scope):
                    if len(data) > _INLINE_BYTES:
                        await asyncio.to_thread(check_json, data)
                    else:
                        check_json(data)
            except ApiError as error:
                if not body.ended:
                    await drop_body(scope, receive, 4 * self.most_bytes)
                return await send_error(error, send)
            if data is None:  # the client left
                return
            await self.app(scope, _once(data, receive), send)
        finally:
            self.held -= body.size


async def drop_body(scope, receive, most_bytes: int = 256 << 20) -> None:
    """Let what still comes of a body go by, up to so many bytes: a client that is cut off while it
    sends does not see the answer. One that asks first whether to send is told at once."""
    if dict(scope["headers"]).get(b"expect"):
        return
    while most_bytes > 0:
        message = await receive()
        most_bytes -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


class _Body:
    """One body as it arrives. size: bytes of it that are held; ended: nothing more comes."""

    def __init__(self, limits: BodyLimits):
        self.size, self.ended = 0, False
        self._limits = limits

    async def read(self, scope, receive) -> bytes | None:
        """All of it; None if the client leaves before its end. ApiError if it is too large."""
        headers = dict(scope["headers"])
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding != b"identity":
            raise ApiError(
                415,
                f"Content-Encoding: wants a body as it is, got {coding.decode('latin-1')[:40]!r}",
                code="unsupported_content_encoding",
            )
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > self._limits.most_bytes:
            raise self._too_large()
        chunks = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            self.ended = not message.get("more_body")
            chunk = message.get("body", b"")
            self._hold(len(chunk))
            chunks.append(chunk)
            if self.ended:
                return b"".join(chunks)

    def _hold(self, size: int) -> None:
        limits = self._limits
        self.size += size
        limits.held += size
        if self.size > limits.most_bytes:
            raise self._too_large()
        if limits.held > _BODIES * limits.most_bytes:
            raise ApiError(
                429,
                "too many large requests at once: try again in 5 s",
                code="too_many_bytes",
                headers={"Retry-After": "5"},
            )

    def _too_large(self) -> ApiError:
        # the rest is not read: the connection cannot be used again
        return ApiError(
            413,
            f"body: larger than {self._limits.most_bytes} bytes",
            code="body_too_large",
            headers={"Connection": "close"},
        )


def check_json(body: bytes) -> None:
    """Raises ApiError 400 for JSON that no parser should be given. Whether it is JSON at all is for
    the parser to say."""
    # a parser guesses UTF-16 and UTF-32 by zeros; what follows would read them differently
    if b"\0" in body or not _is_utf8(body):
        raise _bad("not UTF-8")
    # each step is bounded by what the one before has let through: none takes long
    outline, strings = _STRING.subn(b'"', body, count=MOST_VALUES + 1)
    if strings > MOST_VALUES or sum(outline.count(mark) for mark in b",[{") > MOST_VALUES:
        raise _bad(f"more than {MOST_VALUES} values")
    depth = 0
    for bracket in _BRACKET.finditer(outline):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MOST_DEPTH:
            raise _bad(f"lists and objects more than {MOST_DEPTH} deep")
        if depth < 0:
            raise _bad("closes more lists and objects than it opens")
    for word in _NOT_NUMBERS:
        if word in outline:
            raise _bad(f"{word.decode()} is no number in JSON")
    if _LONG_NUMBER in outline.translate(_DIGITS):
        raise _bad("a number of 400 or more digits")


def _bad(reason: str) -> ApiError:
    return ApiError(400, f"body: {reason}", code="bad_json")


def _is_utf8(body: bytes) -> bool:
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


def _is_json(scope) -> bool:
    kind = dict(scope["headers"]).get(b"content-type", b"")
    return b"json" in kind.lower()


def _once(body: bytes, receive):
    """The body in one message, then what the client does."""
    given = False

    async def read():
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read
