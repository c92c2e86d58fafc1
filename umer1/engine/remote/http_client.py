"""Talking to the HTTP server of another engine, and a thread in which requests wait."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

log = logging.getLogger("umer1")
# seconds between tries when a server cannot be reached or is full
_WAITS = (0.5, 1.0, 2.0, 4.0)
_AGAIN = (429, 502, 503)


class Http:
    """JSON requests to one server.

    Raises RuntimeError that begins with the server's address: what it answered, or why it did not.

    Args:
        key: sent as a bearer token.
        seconds: most that one request may take.
    """

    def __init__(self, url: str, *, key: str | None = None, seconds: float = 1800):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: got {url!r}, wants http://HOST:PORT")
        try:
            import httpx  # noqa: F401
        except ModuleNotFoundError:
            raise ImportError(
                "engines over servers need httpx: pip install 'umer1[serve]'"
            ) from None
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._seconds = seconds
        self._client = None

    async def get(self, path: str) -> Any:
        return await self._ask("GET", path, None, _WAITS)

    async def post(self, path: str, body: dict | None = None, *, again: bool = False) -> Any:
        """again: the request may be sent twice, so it is tried again after a passing failure."""
        return await self._ask("POST", path, body, _WAITS if again else ())

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _ask(self, method: str, path: str, body: dict | None, waits: tuple) -> Any:
        import httpx

        for wait in (*waits, None):
            try:
                response = await self._connected().request(method, path, json=body)
            except httpx.TransportError as error:
                problem = f"no answer to {method} {path}: {type(error).__name__} {error}".rstrip()
            else:
                if response.is_success:
                    return response.json() if response.content else None
                problem = f"answered {response.status_code} to {method} {path}: {_said(response)}"
                if response.status_code not in _AGAIN:
                    wait = None
            if wait is None:
                raise RuntimeError(f"{self.url}: {problem}")
            log.warning("%s: %s; once more in %s s", self.url, problem, wait)
            await asyncio.sleep(wait)

    def _connected(self):
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self.url,
                headers=self._headers,
                timeout=httpx.Timeout(self._seconds, connect=10),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            )
        return self._client


class LoopThread:
    """An event loop in a thread of its own, started when first needed."""

    def __init__(self):
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, work: Coroutine) -> Future:
        """Cancelling the future cancels the work."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=_run_until_stopped, args=(self._loop,), name="umer1-remote", daemon=True
            ).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine) -> Any:
        return self.start(work).result()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _said(response) -> str:
    """The message in an error's body, whatever shape it has."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:300] or "nothing"
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:600]
