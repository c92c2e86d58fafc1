"""How many rows may be there at once: places are taken all together, or the request is refused."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from umer1.serving.errors import ApiError, shutting_down


class Places:
    """For one event loop.

    Attributes:
        most: rows that may be there, running or waiting.
        rows: of everything accepted and not answered.
        closing: no more are accepted.
    """

    def __init__(self, most: int):
        self.most, self.rows, self.closing = most, 0, False
        self._finished_at: deque[float] = deque(maxlen=64)
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def take(self, rows: int) -> Iterator[None]:
        """Places for so many rows. ApiError 429 if there are not enough, 503 when closing."""
        if self.closing:
            raise shutting_down()
        if rows > self.most:
            message = f"{rows} rows (inputs times n), wants at most {self.most}"
            raise ApiError(400, message, code="too_many_rows")
        if self.rows + rows > self.most:
            raise self._full()
        self.rows += rows
        self._empty.clear()
        try:
            yield
        finally:
            self.rows -= rows
            if not self.rows:
                self._empty.set()

    def finished(self, rows: int) -> None:
        """So many rows are done now: the pace that Retry-After counts on."""
        self._finished_at.extend([time.monotonic()] * rows)

    async def empty(self, seconds: float) -> bool:
        """Wait until nothing is there; False if that took longer."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _full(self) -> ApiError:
        """Retry-After: when half of what is there will be done, at the pace of the last rows."""
        times, wait = self._finished_at, 1
        if len(times) > 1 and times[-1] > times[0]:
            pace = (times[-1] - times[0]) / (len(times) - 1)
            wait = min(60, max(1, math.ceil(self.rows / 2 * pace)))
        return ApiError(
            429,
            f"the queue is full ({self.rows} rows): try again in {wait} s",
            code="queue_full",
            headers={"Retry-After": str(wait)},
        )
