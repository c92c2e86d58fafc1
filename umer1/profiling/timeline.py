"""The stages of a traced call over time."""

from __future__ import annotations

from dataclasses import dataclass

from torch.autograd import DeviceType

from umer1.profiling.ranges import CALL, PREFIX


@dataclass(slots=True)
class Range:
    """A stage from `begin` to `end`; `own`: nanoseconds of it outside the stages inside it."""

    name: str
    begin: int
    end: int
    own: int = 0


def fastest_call(events, begins: str) -> tuple[list[Range], float]:
    """The stages of the fastest call, in order of their begin, the call itself first.

    They are cut to what counts: from the first stage called `begins` on, "" for everything. Also
    returns which share of the call that is.
    """
    found = [
        Range(event.name().removeprefix(PREFIX), event.start_ns(), event.end_ns())
        for event in events
        if event.device_type() == DeviceType.CPU and event.name().startswith(PREFIX)
    ]
    found.sort(key=lambda each: (each.begin, -each.end))
    calls = [each for each in found if each.name == CALL]
    whole = {call.begin: call.end - call.begin for call in calls}
    call = min(calls, key=lambda each: whole[each.begin])
    inside = [each for each in found if call.begin <= each.begin and each.end <= call.end]
    begin = next((each.begin for each in inside if each.name == begins), call.begin)
    share = (call.end - begin) / whole[call.begin]
    counted = [each for each in inside if each.end > begin]
    opened: list[Range] = []
    for each in counted:
        each.begin = max(each.begin, begin)
        each.own = each.end - each.begin
        while opened and opened[-1].end <= each.begin:
            opened.pop()
        if opened:
            opened[-1].own -= each.own
        opened.append(each)
    return counted, share


class Stages:
    """The innermost stage at a time; times must not go backwards."""

    def __init__(self, ranges: list[Range]):
        self._waiting = list(reversed(ranges))
        self._opened: list[Range] = []

    def at(self, time_ns: int) -> str | None:
        """None: nothing counts then."""
        while self._waiting and self._waiting[-1].begin <= time_ns:
            self._opened.append(self._waiting.pop())
        self._opened = [each for each in self._opened if each.end > time_ns]
        return self._opened[-1].name if self._opened else None
