"""The least HTTP/1.1 client: 64 of them take little of the cores that the server needs.

connection = Connection("127.0.0.1", 8000)
await connection.send("POST", "/v1/embeddings", body)
answer = await connection.answer()          # .status .headers .body
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

SECONDS = 120.0  # of silence after which a server counts as dead


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class ServerGone(ConnectionError):
    """The server closed the connection, does not take one, or said nothing for `SECONDS`."""


class Connection:
    """One connection that is opened when it is needed and kept while the server keeps it."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, body: bytes = b"") -> None:
        """A whole request."""
        await self.write(head(method, path, len(body)) + body)

    async def send_part(self, method: str, path: str, body: bytes, part: float) -> None:
        """The head of a request and a share of its body."""
        await self.write(head(method, path, len(body)) + body[: int(part * len(body))])

    async def write(self, content: bytes) -> None:
        """Bytes as they are: also half a request, or none."""
        try:
            if self._writer is None or self._reader.at_eof():
                self.abort()
                # a line of an event stream may hold a vector
                opened = asyncio.open_connection(self.host, self.port, limit=1 << 24)
                self._reader, self._writer = await opened
            self._writer.write(content)
            await self._writer.drain()
        except OSError as error:
            self.abort()
            raise ServerGone(f"{type(error).__name__}: {error}") from None

    async def answer(self) -> Answer:
        """The whole answer; an event stream until its end."""
        status, headers = await self.head()
        parts = [part async for part in self._parts(headers)]
        if headers.get("connection") == "close":
            self.abort()
        return Answer(status, headers, b"".join(parts))

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await self._read(lambda: self._reader.readuntil(b"\r\n\r\n"))
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines if line)
        return int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, value in pairs}

    async def chunk(self) -> bytes:
        """The next part of an answer sent in chunks; b"" at its end."""
        line = await self._read(lambda: self._reader.readuntil(b"\r\n"))
        size = int(line.split(b";")[0], 16)
        return (await self._read(lambda: self._reader.readexactly(size + 2)))[:-2]

    def abort(self) -> None:
        """Leave without a word."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None

    async def _parts(self, headers: dict[str, str]):
        if headers.get("transfer-encoding") == "chunked":
            while part := await self.chunk():
                yield part
            return
        length = int(headers.get("content-length", 0))
        yield await self._read(lambda: self._reader.readexactly(length))

    async def _read(self, read) -> bytes:
        try:
            async with asyncio.timeout(SECONDS):
                return await read()
        except (OSError, EOFError, TimeoutError) as error:
            self.abort()
            raise ServerGone(f"{type(error).__name__}: {error}") from None


def head(method: str, path: str, length: int) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()
