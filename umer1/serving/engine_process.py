"""The engine in a process of its own: its steps do not wait for requests to be parsed, nor these for
its steps.

One message per prompt goes there, one per step comes back. If that process ends, what it computed
is answered with 503, and so is everything after it: the server has to be started again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from umer1.engine import Prompt, Sampling
from umer1.engine.pages import PagePool
from umer1.engine.scheduler import Scheduler
from umer1.serving.engine_loop import Ticket, log
from umer1.serving.errors import ApiError
from umer1.serving.wire import dumps, receive

STOPPING = 30.0  # seconds to end by itself


class EngineProcess:
    """What `EngineThread` is, elsewhere.

    Attributes: slots, rows computed together. device: where it computes. threads: of its products
    on a CPU.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        slots: int = 64,
        kv_memory: int | None = None,
    ):
        """Start the process and load `model` there; returns once the engine has its memory. Raises
        what loading raised, OSError if the process ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "umer1.serving.engine_child", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._connection = Connection(ours.detach())
        settings = {
            "log_level": logging.getLogger("umer1").getEffectiveLevel(),
            "model": model,
            "device": device,
            "slots": slots,
            "kv_memory": kv_memory,
        }
        try:
            self._connection.send_bytes(dumps(settings))
            kind, found = receive(self._connection)
        except (EOFError, OSError):
            status = self._process.wait()
            raise OSError(f"the engine's process ended with status {status} at its start") from None
        if kind == "failed":
            self._process.wait()
            raise found
        self.slots, self.device, self.threads = slots, found.pop("device"), found.pop("threads")
        # pages are counted there; what could never fit is refused here, before anything is streamed
        self._fits = Scheduler(PagePool(found["pages"]), slots, found.pop("prefill_tokens"))
        self._state = found
        self._tickets: dict[int, Ticket] = {}  # there now
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost = self._stopping = False
        self._sender = threading.Thread(target=self._send, name="umer1-to-engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Callbacks are called in `loop` from now on."""
        self._loop = loop
        log.info("engine: %d rows, %d pages", self.slots, self._state["pages"])
        loop.add_reader(self._connection.fileno(), self._read)
        self._sender.start()

    @property
    def alive(self) -> bool:
        return not self._lost and self._process.poll() is None

    def prepare(
        self, ticket: Ticket, prompt: Prompt, sampling: Sampling, samples: int, number: int
    ) -> None:
        """Make a ticket ready to join. In any thread; ValueError names the item."""
        new = sampling.max_new_tokens if samples else 0
        ticket.tokens = len(prompt.sequence) if samples else prompt.disc_position + 1
        self._fits.check_fits(ticket.tokens, new, f"prompt {number}")
        ticket.ready = dumps(
            ("join", ticket.number, prompt, sampling, samples, number, ticket.wrote is not None)
        )

    def join_engine(self, ticket: Ticket) -> None:
        """Queue a ticket that is ready. In the event loop."""
        if self._lost:
            self._fail(ticket)
            return
        self._tickets[ticket.number] = ticket
        self._outgoing.put(ticket.ready)
        ticket.ready = None  # it may be pixels

    def leave(self, ticket: Ticket) -> None:
        """Stop a ticket's request, running or not. In the event loop."""
        if ticket.number in self._tickets:
            self._outgoing.put(dumps(("leave", ticket.number)))

    def stop(self) -> None:
        """End the process after what was asked so far; what still runs is cancelled."""
        self._stopping = True
        self._outgoing.put(dumps(("stop",)))
        self._outgoing.put(None)
        if self._sender.is_alive():
            self._sender.join(STOPPING)
        try:
            self._process.wait(STOPPING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def describe(self) -> dict[str, Any]:
        """See `EngineLoop.describe`; at most a quarter of a second old, and exact when idle."""
        return self._state

    def _send(self) -> None:
        """In a thread: a large prompt waits until the engine has read it."""
        with suppress(OSError):  # the reader hears of it too
            while (message := self._outgoing.get()) is not None:
                self._connection.send_bytes(message)

    def _read(self) -> None:
        """In the event loop: whatever has come."""
        try:
            while self._connection.poll():
                events, state = receive(self._connection)
                self._state = state or self._state
                for kind, number, *rest in events:
                    self._hear(kind, number, rest)
        except (EOFError, OSError):
            self._end()

    def _hear(self, kind: str, number: int, rest: list) -> None:
        gone = kind in ("done", "left")
        ticket = self._tickets.pop(number, None) if gone else self._tickets.get(number)
        if ticket is None:
            return  # it was done when it was to leave
        if kind == "wrote":
            ticket.wrote(*rest)
        elif kind == "admitted":
            ticket.admitted()
        elif kind == "done":
            ticket.done(*rest)

    def _end(self) -> None:
        self._loop.remove_reader(self._connection.fileno())
        self._lost = True
        if not self._stopping:
            status = self._process.wait()
            log.critical("the engine's process ended with status %s: restart the server", status)
        for ticket in [*self._tickets.values()]:
            self._fail(ticket)
        self._tickets.clear()
        self._state = self._state | {"running": 0, "pages_held": 0}

    def _fail(self, ticket: Ticket) -> None:
        ticket.admitted()
        ticket.done(ApiError(503, "the engine has ended: start the server again", code="no_engine"))
