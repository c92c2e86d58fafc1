"""Requests join and leave an engine between its steps: what a thread and a process of it share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from umer1.engine import Finished, Generated, NativeEngine, Prompt, Sampling
from umer1.engine.scheduler import Request

log = logging.getLogger("umer1")


@dataclass(slots=True, eq=False)
class Ticket:
    """One prompt on its way through the engine. Callbacks: `admitted` once it no longer waits in the
    engine's queue (whatever became of it), `done` with its result or its error unless it was
    cancelled, `wrote` with (sample, token id) of every token. `tokens` of the prompt and `ready`, what
    the engine takes, are set by `prepare`. `number` is its own."""

    admitted: Callable[[], None]
    done: Callable[[Generated | Exception], None]
    wrote: Callable[[int, int], None] | None = None
    tokens: int = 0
    ready: Any = None
    number: int = field(default_factory=count().__next__)


@dataclass(slots=True, eq=False)
class _Entry:
    """A ticket's request, and what it has given so far."""

    request: Request
    result: Generated = field(default_factory=Generated)

    def deliver(self, finished: Finished) -> None:
        self.result.disc = finished.disc
        if finished.sample >= 0:
            self.result.rollouts[finished.sample] = finished.rollout


class EngineLoop:
    """For one thread, but for `request`.

    Attributes: failures, steps that raised: their requests have got the error. outbox: calls of
    tickets' callbacks, in order, for whoever runs the loop to make or to send.
    """

    def __init__(self, engine: NativeEngine):
        self.engine = engine
        self.failures = 0
        self.outbox: list[tuple[Callable, tuple]] = []
        self._waiting: dict[Ticket, _Entry] = {}  # in the engine's queue
        self._running: dict[Ticket, _Entry] = {}

    def request(self, prompt: Prompt, sampling: Sampling, samples: int, number: int) -> Request:
        """Checked and hashed, from any thread. ValueError names the item."""
        return self.engine.request(prompt, sampling, samples=samples, place=number)

    def join(self, ticket: Ticket, request: Request) -> None:
        entry = _Entry(request, Generated(rollouts=[None] * request.samples))
        wrote = ticket.wrote and (lambda *token: self.outbox.append((ticket.wrote, token)))
        request.context = replace(request.context, deliver=entry.deliver, wrote=wrote)
        try:
            self.engine.enqueue(request)
        except Exception as error:
            self.outbox += [(ticket.admitted, ()), (ticket.done, (error,))]
            return
        self._waiting[ticket] = entry

    def leave(self, ticket: Ticket) -> None:
        if entry := self._waiting.get(ticket) or self._running.get(ticket):
            self.engine.cancel(entry.request)

    def step(self) -> None:
        """One step, if there is anything to do, and what came of it."""
        if not self.engine.idle:
            self._step()
        for ticket, entry in [*self._waiting.items()]:
            if entry.request.state != "waiting":
                self._running[ticket] = self._waiting.pop(ticket)
                self.outbox.append((ticket.admitted, ()))
        for ticket, entry in [*self._running.items()]:
            if entry.request.over:
                del self._running[ticket]
                if entry.request.state == "finished":
                    self.outbox.append((ticket.done, (entry.result,)))

    def cancel_all(self) -> None:
        for entry in [*self._waiting.values(), *self._running.values()]:
            self.engine.cancel(entry.request)

    def describe(self) -> dict[str, Any]:
        """What is in the engine now, from any thread. Pages are `held` by requests, or `kept` by
        prompts that may come again and make room when it is needed."""
        scheduler = self.engine.stepper.scheduler
        pages = scheduler.pages
        # one C call: the engine's thread cannot change the dictionary meanwhile
        prefixes = list(scheduler.prefixes)
        kept = sum(len(prefix.pages) for prefix in prefixes if not prefix.holders)
        return {
            "memory": self.engine.describe()["memory"],
            "running": len(scheduler.running),
            "pages": pages.total,
            "pages_held": pages.total - pages.free - kept,
            "pages_kept": kept,
            "feature_bytes": self.engine.features.bytes,
            "engine_failures": self.failures,
        }

    def _step(self) -> None:
        try:
            self.engine.step()
        except Exception as error:  # of memory, of a device: the next request may fare better
            self.failures += 1
            log.exception("engine: a step failed; its requests get the error")
            self.cancel_all()
            for ticket in [*self._waiting, *self._running]:
                self.outbox.append((ticket.done, (error,)))
