"""One caller at a time, whichever thread it is in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Callers in other threads wait; one in the thread that has the turn gets an error, for it would
    wait for itself. A copy has turns of its own."""

    def __init__(self):
        # not an RLock: a generator that holds the turn may be closed by another thread
        self._lock = threading.Lock()
        self._thread: int | None = None  # that has the turn

    @contextmanager
    def take(self, what: str) -> Iterator[None]:
        """Wait for the turn and hold it. RuntimeError, which says that `what` is in use, where this
        thread has it already."""
        if self._thread == threading.get_ident():
            raise RuntimeError(
                f"{what} is in use by a stream of this thread that has not finished: read it to its "
                "end or close() it first"
            )
        with self._lock:
            self.move_here()
            try:
                yield
            finally:
                self._thread = None

    def move_here(self) -> None:
        """For who holds the turn: it goes on in this thread, if it was in another."""
        self._thread = threading.get_ident()

    def __reduce__(self):
        return Turns, ()
