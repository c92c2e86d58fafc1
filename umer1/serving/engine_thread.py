"""One thread owns the engine: it steps while anything waits or runs, and requests join and leave
between steps.

What it has to tell goes to the event loop once per step, in order.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import torch

from umer1.engine import Finished, Generated, NativeEngine
from umer1.engine.scheduler import Request

log = logging.getLogger("umer1")


@dataclass(slots=True, eq=False)
class Ticket:
    """One request of the engine. The callbacks run in the event loop: `admitted` once it no longer
    waits in the engine's queue (whatever became of it), `done` with its result or its error unless
    it was cancelled. `request` is set before `join`."""

    admitted: Callable[[], None]
    done: Callable[[Generated | Exception], None]
    result: Generated
    request: Request | None = field(default=None)

    @property
    def complete(self) -> bool:
        return self.request.state == "finished"

    def deliver(self, finished: Finished) -> None:
        """What the engine calls as samples finish."""
        self.result.disc = finished.disc
        if finished.sample >= 0:
            self.result.rollouts[finished.sample] = finished.rollout


class EngineThread:
    """Attributes: failures, steps that raised: their requests have got the error."""

    def __init__(self, engine: NativeEngine):
        self.engine = engine
        self.failures = 0
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: dict[Ticket, None] = {}  # in the engine's queue
        self._running: dict[Ticket, None] = {}
        self._outbox: list[tuple[Callable, tuple]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="umer1-engine", daemon=True)

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

    def join_engine(self, ticket: Ticket) -> None:
        """Queue `ticket.request`. From any thread."""
        self._calls.put(lambda: self._join(ticket))

    def leave(self, ticket: Ticket) -> None:
        """Stop a ticket's request, running or not. From any thread."""
        self._calls.put(lambda: self._leave(ticket))

    def tell(self, callback: Callable, *arguments) -> None:
        """Call back in the event loop after this step. From the engine's own thread: its callbacks
        `deliver` and `wrote`."""
        self._outbox.append((callback, arguments))

    def stop(self) -> None:
        """End the thread after what was asked so far; what still runs is cancelled."""
        self._calls.put(None)
        if self.alive:
            self._thread.join()

    def _run(self) -> None:
        # a new thread takes over what torch.set_num_threads said when it asks, and not before
        torch.get_num_threads()
        while self._take_calls():
            if not self.engine.idle:
                self._step()
            self._settle()
            self._flush()
        for ticket in [*self._waiting, *self._running]:
            self.engine.cancel(ticket.request)

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

    def _join(self, ticket: Ticket) -> None:
        try:
            self.engine.enqueue(ticket.request)
        except Exception as error:
            self.tell(ticket.admitted)
            self.tell(ticket.done, error)
            return
        self._waiting[ticket] = None

    def _leave(self, ticket: Ticket) -> None:
        if ticket in self._waiting or ticket in self._running:
            self.engine.cancel(ticket.request)

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception as error:  # of memory, of a device: the next request may fare better
            self.failures += 1
            log.exception("engine: a step failed; its requests get the error")
            for ticket in [*self._waiting, *self._running]:
                self.engine.cancel(ticket.request)
                self.tell(ticket.done, error)

    def _settle(self) -> None:
        for ticket in [each for each in self._waiting if each.request.state != "waiting"]:
            del self._waiting[ticket]
            self._running[ticket] = None
            self.tell(ticket.admitted)
        for ticket in [each for each in self._running if each.request.over]:
            del self._running[ticket]
            if ticket.complete:
                self.tell(ticket.done, ticket.result)

    def _flush(self) -> None:
        if self._outbox:
            told, self._outbox = self._outbox, []
            with suppress(RuntimeError):  # the loop has closed: nobody listens any more
                self._loop.call_soon_threadsafe(_call_all, told)


def _call_all(told: list[tuple[Callable, tuple]]) -> None:
    for callback, arguments in told:
        callback(*arguments)
