"""What a run does when it is told to stop, and when its numbers are no numbers any more."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from umer1.training.loop import Run

_HANDLED = (signal.SIGTERM, signal.SIGINT)
_FORWARDED_WITHIN = 1.0  # seconds in which a launcher passes on the SIGINT that we already have


class Signals:
    """SIGTERM and the first SIGINT are remembered instead of ending the process in the middle of a step.

    A second SIGINT ends it at once (KeyboardInterrupt). Outside of the main thread nothing is handled.
    """

    def __init__(self):
        self.received = 0
        self._since = 0.0
        self._before: dict[int, object] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._remember) for each in _HANDLED}

    def _remember(self, number: int, frame) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.received and now - self._since > _FORWARDED_WITHIN:
            self.restore()
            raise KeyboardInterrupt
        if not self.received:
            name = signal.Signals(number).name
            more = "; once more ends it at once" if number == signal.SIGINT else ""
            print(f"{name}: finishing the step, then saving{more}", file=sys.stderr, flush=True)
            self.received, self._since = number, now

    def restore(self) -> None:
        """The handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def leave(run: Run, number: int, folder: Path) -> None:
    """Ends the process after signal `number`: exit code 143 for SIGTERM, 130 for SIGINT."""
    run.signals.restore()
    if run.parallel.is_main:
        print(
            f"{run.stage}: stopped by {signal.Signals(number).name} at step {run.step} of "
            f"{run.total_steps}, saved as {folder}; the same command goes on from there",
            file=sys.stderr,
            flush=True,
        )
    run.accelerator.end_training()
    raise SystemExit(128 + number)


def report_nan(run: Run, numbers: dict[str, float], where: list[str]) -> Path:
    """Writes nan-step-N.json (numbers and pairs of every process); an error unless `on_nan` is "skip".

    Raises:
        FloatingPointError: `on_nan` is "stop". The weights and the checkpoints are those of the step before.
    """
    mine = {"process": run.parallel.rank, "numbers": _readable(numbers), "pairs": list(where)}
    everyone: list = [mine]
    if run.parallel.group is not None:
        everyone = [None] * run.parallel.world_size
        dist.all_gather_object(everyone, mine)
    path = run.output / f"nan-step-{run.step}.json"
    if run.parallel.is_main:
        path.write_text(json.dumps({"step": run.step, "processes": everyone}, indent=1) + "\n")
    told = f"{run.stage}: NaN or infinity in the loss or the gradient of step {run.step}"
    if run.config.on_nan == "stop":
        run.signals.restore()
        raise FloatingPointError(
            f"{told}; its pairs and numbers are in {path}. The weights were not changed by it. Look at "
            f"these pairs, lower optimizer.learning_rate, or go on without such steps (on_nan: skip)"
        )
    if run.parallel.is_main:
        print(f"{told}: left out ({run.skipped} so far), see {path}", file=sys.stderr, flush=True)
    return path


def _readable(numbers: dict[str, float]) -> dict[str, float | str]:
    """JSON has no NaN: such values as text."""
    return {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
