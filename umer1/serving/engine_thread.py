"""The engine in a thread of this process: for applications that hold an `Embedder` themselves.

It shares the interpreter with the event loop and the workers, and each of the thousands of small
operations of a step waits for its turn. `umer1 serve` gives it a process (engine_process.py).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import torch

from umer1.engine import NativeEngine, Prompt, Sampling
from umer1.serving.engine_loop import EngineLoop, Ticket, log


class EngineThread:
    """Steps while anything waits or runs. What it has to tell goes to the event loop once per step,
    in order."""

    def __init__(self, engine: NativeEngine):
        self.engine = engine
        self._engine_loop = EngineLoop(engine)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="umer1-engine", daemon=True)

    @property
    def slots(self) -> int:
        """Rows computed together."""
        return self.engine.slots

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the engine's memory and begin; callbacks go to `loop`."""
        self._loop = loop
        # here, not in the thread: an engine that does not fit says so to whoever starts the server
        scheduler = self.engine.stepper.scheduler
        log.info("engine: %d rows, %d pages", scheduler.slots, scheduler.pages.total)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def prepare(
        self, ticket: Ticket, prompt: Prompt, sampling: Sampling, samples: int, number: int
    ) -> None:
        """Make a ticket ready to join. In any thread; ValueError names the item."""
        ticket.ready = self._engine_loop.request(prompt, sampling, samples, number)
        ticket.tokens = ticket.ready.tokens

    def join_engine(self, ticket: Ticket) -> None:
        """Queue a ticket that is ready. From any thread."""
        self._calls.put(lambda: self._engine_loop.join(ticket, ticket.ready))

    def leave(self, ticket: Ticket) -> None:
        """Stop a ticket's request, running or not. From any thread."""
        self._calls.put(lambda: self._engine_loop.leave(ticket))

    def stop(self) -> None:
        """End the thread after what was asked so far; what still runs is cancelled."""
        self._calls.put(None)
        if self.alive:
            self._thread.join()

    def describe(self) -> dict[str, Any]:
        """See `EngineLoop.describe`."""
        return self._engine_loop.describe()

    def _run(self) -> None:
        # a new thread takes over what torch.set_num_threads said when it asks, and not before
        torch.get_num_threads()
        while self._take_calls():
            self._engine_loop.step()
            self._flush()
        self._engine_loop.cancel_all()

    def _take_calls(self) -> bool:
        """Do what was asked; wait for it if there is nothing else to do. False: stop."""
        try:
            call = self._calls.get(block=self.engine.idle)
            while call is not None:
                call()
                call = self._calls.get_nowait()
        except Empty:
            return True
        return False

    def _flush(self) -> None:
        if told := self._engine_loop.outbox:
            self._engine_loop.outbox = []
            with suppress(RuntimeError):  # the loop has closed: nobody listens any more
                self._loop.call_soon_threadsafe(_call_all, told)


def _call_all(told: list[tuple[Callable, tuple]]) -> None:
    for callback, arguments in told:
        callback(*arguments)
