"""The process of an engine: `python -m umer1.serving.engine_child FD`, started by `EngineProcess`.

FD is its end of the socket. It ends when the other end does, whatever has become of the server, and
not by signals: those of a terminal or of a service manager go to all processes of a server, and
what runs is to finish.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from umer1.embedder import Embedder
from umer1.engine import NativeEngine, SpecialTokens
from umer1.serving import process_memory
from umer1.serving.engine_loop import EngineLoop, Ticket
from umer1.serving.threads import leave_a_core
from umer1.serving.wire import dumps, receive, sendable

PATIENCE = 4  # steps that a prompt waits for others, see Scheduler
STATE_SECONDS = 0.25  # between two reports of what is in the engine, while it works


def main() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    try:
        settings = receive(connection)
        logging.getLogger("umer1").setLevel(settings.pop("log_level"))
        process_memory.bound_memory()
        try:
            engine = _engine(**settings)
            hello = _hello(engine)
        except Exception as error:  # whoever starts the server is told
            connection.send_bytes(dumps(("failed", sendable(error))))
            return
        connection.send_bytes(dumps(("ready", hello)))
        gc.freeze()
        trimming = process_memory.return_freed_memory_for_ever
        threading.Thread(target=trimming, name="umer1-trim", daemon=True).start()
        _Child(connection, engine).run()
    except (EOFError, ConnectionError):
        pass  # the server has ended


def _engine(model: str, device: str | None, slots: int, kv_memory: int | None) -> NativeEngine:
    loaded = Embedder.load(model, device=device)
    if loaded.model.device.type == "cpu":
        leave_a_core()
    special = SpecialTokens.of(loaded.processor)
    return NativeEngine(
        loaded.model,
        special,
        packed=loaded.packed,
        slots=slots,
        kv_memory=kv_memory,
        patience=PATIENCE,
    )


def _hello(engine: NativeEngine) -> dict[str, Any]:
    return EngineLoop(engine).describe() | {
        "device": str(engine.model.device),
        "prefill_tokens": engine.prefill_tokens,
        "threads": torch.get_num_threads(),
    }


class _Child:
    def __init__(self, connection: Connection, engine: NativeEngine):
        self.connection, self.engine = connection, engine
        self.loop = EngineLoop(engine)
        self.tickets: dict[int, Ticket] = {}
        self.events: list[tuple] = []
        self.leaving: list[int] = []
        self.told = time.monotonic()

    def run(self) -> None:
        """Until the server says so."""
        while self._take_calls():
            self.loop.step()
            outbox, self.loop.outbox = self.loop.outbox, []
            for callback, arguments in outbox:
                callback(*arguments)
            self._report()
        self.loop.cancel_all()

    def _take_calls(self) -> bool:
        """Do what was asked; wait for it if there is nothing else to do. False: stop."""
        while self.engine.idle or self.connection.poll():
            kind, *rest = receive(self.connection)
            if kind == "stop":
                return False
            if kind == "join":
                self._join(*rest)
            else:
                self._leave(*rest)
            if not self.connection.poll():
                break
        return True

    def _join(self, number, prompt, sampling, samples, place, streams) -> None:
        tell = self.events.append
        ticket = Ticket(
            admitted=lambda: tell(("admitted", number)),
            done=lambda result: self._done(number, result),
            wrote=(lambda *token: tell(("wrote", number, *token))) if streams else None,
        )
        try:
            request = self.loop.request(prompt, sampling, samples, place)
        except ValueError as error:
            ticket.admitted()
            ticket.done(error)
            return
        self.tickets[number] = ticket
        self.loop.join(ticket, request)

    def _done(self, number: int, result: Any) -> None:
        self.tickets.pop(number, None)
        if isinstance(result, Exception):
            result = sendable(result)
        self.events.append(("done", number, result))

    def _leave(self, number: int) -> None:
        if ticket := self.tickets.pop(number, None):
            self.loop.leave(ticket)
        self.leaving.append(number)

    def _report(self) -> None:
        """What this step has to tell, and now and then what is in the engine: always when it has
        nothing more to do."""
        self.events += [("left", number) for number in self.leaving]
        self.leaving.clear()
        now = time.monotonic()
        due = self.engine.idle or now - self.told > STATE_SECONDS
        if self.events or due:
            self.connection.send_bytes(dumps((self.events, self.loop.describe() if due else None)))
            self.events.clear()
        if due:
            self.told = now


if __name__ == "__main__":
    main()
    logging.shutdown()
    # with a thread that waits for ever, libraries that count their objects at the end find some
    os._exit(0)
