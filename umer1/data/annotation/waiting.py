"""When to ask again: backoff with jitter, and the server's own Retry-After for everybody."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retries:
    """Attributes: attempts: of one question, the first included; those that the server put off with a
    Retry-After do not count. first_wait, longest_wait: seconds of backoff. longest_hold: seconds that
    a question is put off in all; a server that asks for a longer pause at once ends the run."""

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_hold: float = 900.0

    def __post_init__(self):
        if type(self.attempts) is not int or self.attempts < 1:
            raise ValueError(f"attempts: wants a whole number above 0, got {self.attempts!r}")

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures: doubled each time, half of it at random."""
        wait = min(self.longest_wait, self.first_wait * 2 ** min(failures - 1, 30))
        return wait * random.uniform(0.5, 1.0)


class Gate:
    """Closed for all who ask while the server wants a pause."""

    def __init__(self):
        self._open_at, self._spread = 0.0, 0.0

    def hold(self, seconds: float) -> None:
        self._open_at = max(self._open_at, time.monotonic() + seconds)
        self._spread = min(1.0, seconds / 10)

    async def passed(self) -> None:
        """Returns when it is open; those who waited go on one after the other, not at once."""
        waited = False
        while (left := self._open_at - time.monotonic()) > 0:
            await asyncio.sleep(left)
            waited = True
        if waited:
            await asyncio.sleep(random.uniform(0.0, self._spread))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After (a number or a date) or retry-after-ms asks for; None without a usable
    one."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        return max(seconds, 0.0) if not math.isnan(seconds) else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(date.timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
