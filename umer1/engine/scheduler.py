"""Who runs next: requests wait in order, take slots and pages, and leave at any step. No torch here.

A request is one prompt and its samples. Its prefix (the prompt's keys and values) is shared with
every other request of the same content; each sample is a row with a slot and pages of its own for
all the tokens it may write. Both are taken when the row is made: what runs never waits for memory.

Rules, all of them:
- The queue is first come, first served: nobody overtakes, so nobody starves.
- A request is admitted when its prefix and one row fit; its other rows follow as there is room.
- While rows run, new ones join when a quarter of the slots is free or when all that wait fit:
  prompts are then prefilled together instead of one by one.
- With `patience`, requests wait so many steps for others, or until they are a GATHERED-th of the rows
  that run: a server's come one by one, and a prefill for each costs a step as much as decoding.
- Prefixes that nobody uses stay, oldest use first to go, until their pages are needed.
- A prompt longer than `prefill_tokens` is prefilled in pieces cut at multiples of it, whoever else
  is there, so how it is cut (and so its result) depends on itself alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from umer1.engine.pages import PAGE_LENGTH, PagePool, pages_for
from umer1.engine.shared_prefixes import Prefix, SharedPrefixes

GATHERED = 8


@dataclass(slots=True, eq=False)
class Request:
    """One prompt and its samples. `samples` 0: only its prefix is computed, for the disc vector.

    key: equal for equal content. tokens: of the prompt. new_tokens: most that each sample writes.
    content: what the prefill needs; context: what the engine wants to find here again; results:
    what it has delivered.
    """

    key: Any
    tokens: int
    samples: int
    new_tokens: int
    content: Any = None
    context: Any = None
    prefix: Prefix | None = None
    made: int = 0  # rows so far
    rows: list[Row] = field(default_factory=list)  # those that have not finished
    results: list = field(default_factory=list)
    state: str = "waiting"  # waiting | admitted | finished | cancelled

    @property
    def over(self) -> bool:
        return self.state in ("finished", "cancelled")


@dataclass(slots=True, eq=False)
class Row:
    """One sample: where it lives and what it has written."""

    request: Request
    sample: int
    slot: int
    pages: list[int]
    started: bool = False
    over: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Piece(NamedTuple):
    """Tokens `start` to `stop` of a prompt, to be prefilled now."""

    prefix: Prefix
    start: int
    stop: int


class Scheduler:
    """Attributes: slots, the rows that may run together; running, the rows by slot."""

    def __init__(self, pages: PagePool, slots: int, prefill_tokens: int, patience: int = 0):
        self.pages, self.slots, self.prefill_tokens = pages, slots, prefill_tokens
        # in steps: how long requests wait for others, and have so far
        self.patience, self._held = patience, 0
        self.prefixes = SharedPrefixes(pages)
        self.running: dict[int, Row] = {}
        self._free_slots = list(range(slots - 1, -1, -1))
        self._free_places = list(range(slots - 1, -1, -1))  # rows of the prefix table
        self._waiting: deque[Request] = deque()
        self._unfilled: deque[Prefix] = deque()
        self._without_rows: list[Request] = []  # admitted, and wanting their prefix alone
        self.waiting_rows = 0

    def longest_prompt(self, new_tokens: int) -> int:
        """Tokens of the longest prompt that `check_fits` lets pass; below 1: none."""
        tokens = (self.pages.total - pages_for(new_tokens)) * PAGE_LENGTH
        return tokens if new_tokens else max(tokens, self.prefill_tokens)

    def check_fits(self, tokens: int, new_tokens: int, name: str = "request") -> None:
        """ValueError for a prompt that does not fit even when nothing else is there."""
        needed = self._prefix_pages(tokens, 1 if new_tokens else 0) + pages_for(new_tokens)
        if needed > self.pages.total:
            raise ValueError(
                f"{name}: {tokens} prompt tokens and {new_tokens} new ones need {needed} pages of "
                f"key-value memory, there are {self.pages.total}: shorten it, lower "
                "max_new_tokens, or give the engine more memory (kv_memory)"
            )

    def add(self, request: Request) -> None:
        self.check_fits(request.tokens, request.new_tokens if request.samples else 0)
        self._waiting.append(request)
        self.waiting_rows += request.samples

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._unfilled or self.running or self._without_rows)

    def admit(self) -> None:
        """Give waiting requests their prefixes, and their samples slots and pages."""
        if not self._gathered():
            return
        join = self._worth_joining()
        while self._waiting:
            request = self._waiting[0]
            if request.samples and not join:
                return
            if request.prefix is None and not self._attach(request):
                return
            while request.made < request.samples and self._make_row(request):
                pass
            if request.made < request.samples:
                return
            self._waiting.popleft()
            if not request.samples:
                self._without_rows.append(request)

    def pieces(self) -> list[Piece]:
        """What to prefill next, at most `prefill_tokens` and one prompt per slot: whole prompts and
        first pieces together, any later piece by itself. Tell `filled` when it is done."""
        chosen: list[Piece] = []
        total = 0
        for prefix in self._unfilled:
            length = min(prefix.tokens - prefix.filled, self.prefill_tokens)
            later = prefix.filled > 0
            full = total + length > self.prefill_tokens or len(chosen) == self.slots
            if chosen and (later or full):
                break
            chosen.append(Piece(prefix, prefix.filled, prefix.filled + length))
            total += length
            if later:
                break
        return chosen

    def filled(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            piece.prefix.filled = piece.stop
            if piece.prefix.ready:
                self._unfilled.remove(piece.prefix)

    def take_ready(self) -> tuple[list[Row], list[Request]]:
        """Rows whose prefix is there now: they run from here on; and the requests that are finished
        with it, having no rows."""
        rows = [
            row for row in self.running.values() if not row.started and row.request.prefix.ready
        ]
        for row in rows:
            row.started = True
        requests = [request for request in self._without_rows if request.prefix.ready]
        for request in requests:
            self._without_rows.remove(request)
            self._finish(request, "finished")
        return rows, requests

    def started(self) -> list[Row]:
        """The rows that run, those of one prefix side by side."""
        rows = [row for row in self.running.values() if row.started]
        return sorted(rows, key=lambda row: (row.request.prefix.place, row.slot))

    def retire(self, row: Row) -> None:
        """The row has finished: its slot and pages are free, and its request may be."""
        request = row.request
        self._drop_row(row)
        if not request.rows and request.made == request.samples:
            self._finish(request, "finished")

    def cancel(self, request: Request) -> None:
        """Stop at any time; what it holds alone is free at once."""
        if request.over:
            return
        if request in self._waiting:
            self._waiting.remove(request)
            self.waiting_rows -= request.samples - request.made
        if request in self._without_rows:
            self._without_rows.remove(request)
        for row in list(request.rows):
            self._drop_row(row)
        self._finish(request, "cancelled")

    def check(self) -> None:
        """AssertionError unless pages, slots and counts agree."""
        rows = list(self.running.values())
        self.pages.check(
            page
            for pages in [row.pages for row in rows] + [prefix.pages for prefix in self.prefixes]
            for page in pages
        )
        assert sorted([*self.running, *self._free_slots]) == list(range(self.slots))
        assert all(slot == row.slot for slot, row in self.running.items())
        used = {row.request.prefix for row in rows}
        places = [prefix.place for prefix in used]
        assert sorted([*places, *self._free_places]) == list(range(self.slots))
        for prefix in self.prefixes:
            assert prefix.rows == sum(row.request.prefix is prefix for row in rows)
            assert prefix.ready or prefix in self._unfilled
            assert prefix.ready or prefix.holders, "an abandoned prefix is still being filled"
        assert self.waiting_rows == sum(each.samples - each.made for each in self._waiting)

    def _gathered(self) -> bool:
        """Whether what waits is worth a prefill, or has waited long enough for more."""
        enough = len(self._waiting) * GATHERED >= len(self.running)
        if enough or self._held >= self.patience:
            self._held = 0
            return True
        self._held += bool(self._waiting)
        return False

    def _worth_joining(self) -> bool:
        free = len(self._free_slots)
        return not self.running or free * 4 >= self.slots or free >= self.waiting_rows

    def _prefix_pages(self, tokens: int, samples: int) -> int:
        """A prompt without rows that is prefilled in one piece leaves nothing to attend to."""
        return pages_for(tokens) if samples or tokens > self.prefill_tokens else 0

    def _attach(self, request: Request) -> bool:
        """Find or make the prefix, if it and the request's first row fit."""
        row_pages = pages_for(request.new_tokens) if request.samples else 0
        if request.samples and not self._free_slots:
            return False
        prefix = self.prefixes.find(request.key)
        if prefix is None:
            own = self._prefix_pages(request.tokens, request.samples)
            if not self.prefixes.make_room(own + row_pages):
                return False
            prefix = self.prefixes.make(request.key, request.tokens, own, request.content)
            self._unfilled.append(prefix)
            prefix.holders += 1
        else:
            prefix.holders += 1
            if not self.prefixes.make_room(row_pages):
                self.prefixes.release(prefix)
                return False
        request.content = None  # the prefix has it, and drops it when it is filled
        request.prefix, request.state = prefix, "admitted"
        return True

    def _make_row(self, request: Request) -> bool:
        needed = pages_for(request.new_tokens)
        if not self._free_slots or not self.prefixes.make_room(needed):
            return False
        row = Row(request, request.made, self._free_slots.pop(), self.pages.take(needed))
        prefix = request.prefix
        if not prefix.rows:
            prefix.place = self._free_places.pop()
        prefix.rows += 1
        request.made += 1
        self.waiting_rows -= 1
        request.rows.append(row)
        self.running[row.slot] = row
        return True

    def _drop_row(self, row: Row) -> None:
        row.over = True
        row.request.rows.remove(row)
        del self.running[row.slot]
        self._free_slots.append(row.slot)
        self.pages.give_back(row.pages)
        prefix = row.request.prefix
        prefix.rows -= 1
        if not prefix.rows:
            self._free_places.append(prefix.place)
            prefix.place = -1

    def _finish(self, request: Request, state: str) -> None:
        request.state = state
        if request.prefix is None:
            return
        prefix = request.prefix
        self.prefixes.release(prefix)
        if not prefix.holders and not prefix.ready:
            self._unfilled.remove(prefix)
            self.prefixes.drop(prefix)
