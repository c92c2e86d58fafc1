"""One look for every long job: a bar on stderr with count, rate, time left and a few live numbers."""

from __future__ import annotations

import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """Handle given by `progress_bar`; `advance` also takes the numbers to show."""

    def __init__(self, progress: Progress | None, task: int | None, unit: str):
        self._progress, self._task, self._unit = progress, task, unit
        self._started, self._done = time.monotonic(), 0

    def advance(self, count: int = 1, **numbers: object) -> None:
        self._done += count
        if self._progress is None:
            return
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        shown = [
            f"{rate:.3g} {self._unit}/s",
            *(f"{name} {_short(value)}" for name, value in numbers.items()),
        ]
        self._progress.update(self._task, advance=count, numbers="  ".join(shown))


@contextmanager
def progress_bar(title: str, total: int | None, *, unit: str = "it", show: bool = True):
    """`with progress_bar("embed", len(items), unit="items") as bar: bar.advance(1, tokens=…)`."""
    if not show:
        yield Bar(None, None, unit)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        yield Bar(progress, progress.add_task(title, total=total, numbers=""), unit)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
