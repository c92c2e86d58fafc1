"""How far an evaluation is: two bars on stderr, with the time left of this task and of all.

An item with a video that is reasoned about takes hundreds of times as long as a text that is read
once. So time is kept per kind of item (mode, medium), and what is left is counted by kind. A kind
that has not been seen yet is estimated from a rough ratio to those that have.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# of one item, roughly: what is known before anything has been measured
MEDIUM_COST = {"text": 1.0, "image": 3.0, "video": 8.0}
MODE_COST = {"disc": 1.0, "gen": 20.0, "both": 20.0}
MEASURED = 8  # items of a kind after which its own mean is taken

Kind = tuple[str, str]


class RunProgress:
    """Args:
    totals: (task, kind) -> items, kind being (mode, medium), such as ("gen", "image").
    show: False counts and stays silent.
    """

    def __init__(
        self,
        totals: Mapping[tuple[str, Kind], int],
        *,
        show: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self._left = Counter(totals)
        self._total: Counter = Counter()
        for (task, _), count in totals.items():
            self._total[task] += count
        self._seconds: dict[Kind, float] = defaultdict(float)
        self._items: Counter = Counter()
        self._last = clock()
        self._bars = _Bars(sum(self._total.values())) if show else None

    def skip(self, task: str, kind: Kind, count: int) -> None:
        """Items that were there before: done, and they took no time."""
        self._left[task, kind] -= count
        self._show(task)

    def start(self) -> None:
        """From here on time is spent on items."""
        self._last = self._clock()

    def advance(self, task: str, kind: Kind, count: int = 1, **numbers: object) -> None:
        """Items that have just finished; `numbers` are shown beside the bars."""
        now = self._clock()
        self._seconds[kind] += now - self._last
        self._items[kind] += count
        self._last = now
        self._left[task, kind] -= count
        self._show(task, numbers)

    def left(self, task: str | None = None) -> float | None:
        """Seconds left of a task, or of all; None before anything is known."""
        rough = sum(_rough(kind) * count for kind, count in self._items.items())
        if not rough:
            return None
        scale = sum(self._seconds.values()) / rough
        return sum(
            count * self._cost(kind, scale)
            for (name, kind), count in self._left.items()
            if task in (None, name)
        )

    def say(self, line: str) -> None:
        """A line above the bars."""
        if self._bars is not None:
            self._bars.say(line)

    def __enter__(self) -> "RunProgress":
        if self._bars is not None:
            self._bars.progress.start()
        return self

    def __exit__(self, *error) -> None:
        if self._bars is not None:
            self._bars.progress.stop()

    def _cost(self, kind: Kind, scale: float) -> float:
        if self._items[kind] >= MEASURED:
            return self._seconds[kind] / self._items[kind]
        return scale * _rough(kind)

    def _show(self, task: str, numbers: Mapping | None = None) -> None:
        if self._bars is None:
            return
        left = sum(count for (name, _), count in self._left.items() if name == task)
        whole = sum(self._total.values())
        self._bars.show(
            task,
            (self._total[task] - left, self._total[task], _clock_time(self.left(task))),
            (whole - sum(self._left.values()), whole, _clock_time(self.left())),
            numbers,
        )


class _Bars:
    def __init__(self, total: int):
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("{task.fields[numbers]}"),
        )
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, refresh_per_second=4)
        self._all = self.progress.add_task("evaluate", total=total, left="-", numbers="")
        self._one, self._name = None, None

    def show(self, name, one, whole, numbers) -> None:
        if name != self._name:
            if self._one is not None:
                self.progress.remove_task(self._one)
            self._one = self.progress.add_task(name, total=one[1], left="-", numbers="")
            self._name = name
        self.progress.update(self._one, completed=one[0], left=one[2])
        self.progress.update(self._all, completed=whole[0], left=whole[2])
        if numbers:
            text = "  ".join(f"{what} {value}" for what, value in numbers.items())
            self.progress.update(self._all, numbers=text)

    def say(self, line: str) -> None:
        self.progress.console.print(line, highlight=False)


def _rough(kind: Kind) -> float:
    mode, medium = kind
    return MODE_COST[mode] * MEDIUM_COST[medium]


def _clock_time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
