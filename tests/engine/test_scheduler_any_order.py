"""The scheduler under requests, steps, ends and cancellations in any order: nothing is lost, doubled or leaked."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from umer1.engine.pages import PagePool, pages_for
from umer1.engine.scheduler import Request, Scheduler


def make(pages=100, slots=4, prefill_tokens=256):
    return Scheduler(PagePool(pages), slots, prefill_tokens)


def request(key, tokens=10, samples=1, new_tokens=8):
    return Request(key, tokens, samples, new_tokens, content=f"content of {key}")


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, steps, ends and cancellations in any order: after each of them pages, slots and counts agree;
    in the end every request is over exactly once."""

    def __init__(self):
        super().__init__()
        self.all: list[Request] = []
        self.ended: dict[Request, list[int]] = {}

    @rule(
        pages=st.integers(4, 40),
        slots=st.integers(1, 6),
        prefill_tokens=st.sampled_from([32, 64, 100, 1000]),
    )
    @precondition(lambda self: not hasattr(self, "scheduler"))
    def build(self, pages, slots, prefill_tokens):
        self.scheduler = make(pages, slots, prefill_tokens)

    @rule(
        key=st.integers(0, 5),
        tokens=st.integers(1, 150),
        samples=st.integers(0, 5),
        new=st.integers(1, 150),
    )
    @precondition(lambda self: hasattr(self, "scheduler"))
    def arrive(self, key, tokens, samples, new):
        new = new if samples else 0
        each = request((key, tokens, samples > 0), tokens, samples, new)
        try:
            self.scheduler.add(each)
        except ValueError:
            assert pages_for(tokens) + pages_for(new) > self.scheduler.pages.total
            return
        self.all.append(each)
        self.ended[each] = []

    @rule(ends=st.lists(st.integers(0, 5), max_size=4))
    @precondition(lambda self: hasattr(self, "scheduler"))
    def step(self, ends):
        scheduler = self.scheduler
        scheduler.admit()
        self.check()
        pieces = scheduler.pieces()
        assert sum(piece.stop - piece.start for piece in pieces) <= scheduler.prefill_tokens
        assert pieces or not any(not prefix.ready for prefix in scheduler.prefixes)
        scheduler.filled(pieces)
        _, without_rows = scheduler.take_ready()
        for each in without_rows:
            self.ended[each].append(-1)
        for slot in ends:
            row = scheduler.running.get(slot)
            if row is not None and row.started:
                self.ended[row.request].append(row.sample)
                scheduler.retire(row)
                self.check()

    @rule(number=st.integers(0, 30))
    @precondition(lambda self: hasattr(self, "scheduler") and self.all)
    def cancel(self, number):
        self.scheduler.cancel(self.all[number % len(self.all)])

    @rule()
    @precondition(lambda self: hasattr(self, "scheduler") and self.scheduler.idle)
    def forget(self):
        self.scheduler.prefixes.drop_unused()
        assert self.scheduler.pages.free == self.scheduler.pages.total

    @invariant()
    def check(self):
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            if self.scheduler.idle:
                break
            self.step(range(6))
        assert self.scheduler.idle, "somebody starved"
        for each in self.all:
            assert each.over
            if each.state == "finished":
                assert sorted(self.ended[each]) == (list(range(each.samples)) or [-1])
            else:
                assert len(set(self.ended[each])) == len(self.ended[each])
        self.scheduler.prefixes.drop_unused()
        assert self.scheduler.pages.free == self.scheduler.pages.total


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
