"""Steps of a suite: each in a process of its own that ends when its time is over, with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT_KEPT = 4000  # characters of a failed step
GRACE = 3.0  # seconds between asking a process to end and ending it


class Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self, most: float = float("inf")) -> float:
        """Seconds that are left, at most so many, never below 0."""
        return max(0.0, min(most, self.end - time.monotonic()))


@dataclass(slots=True)
class Step:
    """What a step came to. `status`: ok, failed, skipped or out of time; `detail`: why, or its last line."""

    step: str
    status: str
    seconds: float = 0.0
    detail: str = ""
    output: str = ""

    @property
    def bad(self) -> bool:
        return self.status in ("failed", "out of time")

    def to_dict(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value != ""}


@dataclass(slots=True)
class Ended:
    """`status` None: it ran out of time."""

    status: int | None
    output: str
    seconds: float

    def last_line(self) -> str:
        return (self.output.strip().splitlines() or [""])[-1].strip("= ")


def run(
    command: list[str],
    seconds: float,
    *,
    environment: dict[str, str] | None = None,
    show: bool = False,
    ending: signal.Signals = signal.SIGTERM,
) -> Ended:
    """Run a command from the root of the repository.

    Args:
        seconds: after which it is ended, and whatever it started with it.
        environment: variables over those of this process.
        show: what it prints to stdout goes to ours; then only stderr is in `output`.
        ending: the signal that asks it to end.
    """
    began = time.monotonic()
    if seconds <= 0:
        return Ended(None, "", 0.0)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=None if show else output,
            stderr=output if show else subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process, ending)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return Ended(status, text, time.monotonic() - began)


def step(name: str, command: list[str], seconds: float, **options) -> Step:
    """Run a command as a step that is good if its exit status is 0."""
    ended = run(command, seconds, **options)
    if ended.status is None:
        status, detail = "out of time", f"ended after {ended.seconds:.0f} s"
    else:
        status = "ok" if ended.status == 0 else "failed"
        detail = ended.last_line()
    kept = "" if status == "ok" else ended.output[-OUTPUT_KEPT:]
    return Step(name, status, round(ended.seconds, 1), detail, kept)


def _end(process: subprocess.Popen, ending: signal.Signals) -> None:
    """The process and its group, politely first."""
    for number, patience in ((ending, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        if process.poll() is not None and number is ending:
            continue  # it has ended; what it started gets no grace
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
