"""Run the application with uvicorn until a signal, and let what runs finish.

First SIGTERM or SIGINT: new work is answered with 503, the health check says so, what was accepted
goes on for `drain_seconds`; then the process ends with status 0. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI

log = logging.getLogger("umer1")
LAST_ANSWERS = 5  # seconds for answers to reach their clients after everything has been computed


def serve(
    app: FastAPI, host: str, port: int, listening: Callable[[str, int], None] = lambda *_: None
) -> None:
    """Serve `app` (of `create_app`) until a signal. Port 0: any free one; `listening` is told host
    and port once requests are taken. OSError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
        server = _Server(config, lambda: listening(host, listener.getsockname()[1]))
        try:
            asyncio.run(server.serve(sockets=[listener]))
        finally:
            gc.unfreeze()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]):
        super().__init__(config)
        self.runner = config.app.state.runner
        self._listening = listening
        self._drain: asyncio.Task | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets=None) -> None:
        self._loop = asyncio.get_running_loop()
        # of asyncio.to_thread, for media and names of hosts; by default as many as the host has cores
        self._loop.set_default_executor(ThreadPoolExecutor(8, "umer1-aside"))
        await super().startup(sockets)
        if self.started:
            # the model and the libraries stay for good: no collection need look at them
            gc.freeze()
            self._listening()

    def handle_exit(self, sig, frame) -> None:
        """Runs in the main thread between any two instructions: it only leaves a note."""
        if self._loop is None or self.should_exit:
            return super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._drain is not None:
            self.should_exit = self.force_exit = True
            return
        rows = self.runner.describe()["rows"]
        log.warning("shutting down: %d rows to finish; a second signal ends at once", rows)
        self._drain = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        await self.runner.drain()
        self.should_exit = True
