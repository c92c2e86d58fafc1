"""A request ends when it is answered, when its time is up (504) or when its client leaves.

Outermost of the server's middlewares: the time begins with the first byte, and reading a slow body
counts. Once an answer has started, sending it may take as long again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from umer1.serving.errors import out_of_time, send_error

CLIENT_LEFT = 499  # in metrics only, as nginx calls it


class Watch:
    """ASGI middleware. answered: called with (scope, status, seconds) of every request."""

    def __init__(self, app, *, seconds: float, answered: Callable[[dict, int, float], None]):
        self.app, self.seconds, self.answered = app, seconds, answered

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = _Watched(receive, send)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.seconds) as limit:
                request.limit, request.seconds = limit, self.seconds
                try:
                    await self.app(scope, request.receive, request.send)
                finally:
                    request.stop()
        except TimeoutError:
            if request.left:
                request.status = CLIENT_LEFT
            elif not request.status:
                await send_error(out_of_time(self.seconds), request.send)
            # else the answer has begun: closing the connection is all that is left to say
        finally:
            self.answered(scope, request.status or 500, time.monotonic() - began)


class _Watched:
    """One request. status: of its answer, 0 until that starts; left: whether the client has gone."""

    limit: asyncio.Timeout
    seconds: float

    def __init__(self, receive, send):
        self._receive, self._send = receive, send
        self.status, self.left = 0, False
        self._watcher: asyncio.Task | None = None
        self._gone = asyncio.Event()

    async def receive(self):
        """The body's messages; after them, wait for the client to leave."""
        if self._watcher is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()
        elif not message.get("more_body"):
            self._watcher = asyncio.create_task(self._watch())
        return message

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self.limit.expired():
                self.limit.reschedule(asyncio.get_running_loop().time() + self.seconds)
        await self._send(message)

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()

    def _leave(self) -> None:
        self.left = True
        self._gone.set()
        if not self.limit.expired():
            # its time is up now: one way for both to end what runs
            self.limit.reschedule(asyncio.get_running_loop().time())
