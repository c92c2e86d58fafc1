"""What a run shows: a line per step, `<stage>_metrics.jsonl`, TensorBoard, wandb, samples, warnings."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from umer1.training.log_line import format_line
from umer1.training.metrics_file import read_metrics
from umer1.training.plots import plot_at_end
from umer1.training.samples_page import write_page
from umer1.training.settings import RLConfig, SFTConfig
from umer1.training.trackers import check_trackers, open_trackers
from umer1.training.warnings_of_failure import Limits, find_failures


class Monitor:
    """Everything a run reports goes through here. All processes call it; the main one writes.

    Make it before training starts (it refuses trackers that are missing), call `begin(step)` after resuming, then
    `step` once per logged step and `close` at the end.

    Args:
        run_dir: the run's output directory.
        stage: "sft" or "rl"; names the files.
        settings: the run's config.
        total_steps: of the whole run, for the line; 0 if it is not known.
    """

    def __init__(
        self,
        run_dir: str | Path,
        stage: str,
        accelerator: Accelerator,
        settings: SFTConfig | RLConfig,
        *,
        total_steps: int = 0,
    ):
        check_trackers(settings)
        self.run_dir, self.stage, self.total_steps = Path(run_dir), stage, total_steps
        self.accelerator, self.settings = accelerator, settings
        self.path = self.run_dir / f"{stage}_metrics.jsonl"
        self.history: list[dict] = []
        self._limits = Limits(stage, settings.batch_size, getattr(settings, "max_new_tokens", 0))
        self._trackers = None
        self._first, self._started = 0, time.monotonic()

    def begin(self, step: int = 0) -> None:
        """The run starts (or goes on) after `step`: lines beyond it, of a killed process, are dropped."""
        self._first, self._started = step, time.monotonic()
        self._trackers = []
        if not self.accelerator.is_main_process:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.history = read_metrics(self.path, up_to=step) if step else []
        if self.path.exists():
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(_line(row) for row in self.history))
            partial.replace(self.path)
        for file in (self.run_dir / "samples" / self.stage).glob("step-*.jsonl"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()
        self._trackers = open_trackers(self.settings, self.run_dir, self.stage, step)

    def step(self, step: int, numbers: dict[str, float]) -> dict[str, float]:
        """Report one step. Returns the means over the processes (memory: the largest).

        Args:
            numbers: by key, the same keys on every process, rates over all processes.
        """
        if self._trackers is None:
            self.begin(max(step - 1, 0))
        numbers = self._over_processes(numbers)
        if not self.accelerator.is_main_process:
            return numbers
        row = {"step": step} | {name: _short(value) for name, value in numbers.items()}
        self.history.append(row)
        failures = find_failures(self.history, self._limits)
        if failures:
            row["warnings"] = {failure.name: failure.text for failure in failures}
        with self.path.open("a") as file:
            file.write(_line(row))
        for tracker in self._trackers:
            tracker.log(numbers, step=step)
        print(
            format_line(self.stage, step, self.total_steps, numbers, self._seconds_left(step)),
            flush=True,
        )
        for failure in failures:
            for tracker in self._trackers:
                tracker.log({f"warning/{failure.name}": failure.text}, step=step)
            text = f"WARNING {self.stage} step {step}, {failure.name}: {failure.text}"
            print(f"\033[33m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)
        return numbers

    def samples_due(self, before: int, after: int) -> bool:
        """Whether `samples` is wanted for the steps `before` + 1 to `after`."""
        every = self.settings.samples_every
        return every > 0 and after // every > before // every

    def samples(self, step: int, rows: list[dict]) -> None:
        """Write rows (see umer1.training.samples) of all processes to `samples/<stage>/step-*.jsonl` and `samples.html`."""
        process = self.accelerator.process_index
        rows = gather_object([{"process": process, **row} for row in rows])
        if not self.accelerator.is_main_process:
            return
        target = self.run_dir / "samples" / self.stage / f"step-{step:08d}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial = target.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
        write_page(self.run_dir, self.stage)

    def close(self) -> None:
        """The run is over: finish the trackers, draw `plots/`."""
        for tracker in self._trackers or []:
            tracker.finish()
        if self._trackers is not None and self.accelerator.is_main_process and self.history:
            plot_at_end(self.run_dir)
        self._trackers = None

    def _over_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        device = self.accelerator.device
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
        means = self.accelerator.reduce(values, "mean").tolist()
        memory = torch.tensor([peak_memory_gib(device)], dtype=torch.float64, device=device)
        largest = float(self.accelerator.gather(memory).max())
        return dict(zip(numbers, means)) | {"memory_gib": largest}

    def _seconds_left(self, step: int) -> float | None:
        done, left = step - self._first, self.total_steps - step
        if done <= 0 or left <= 0:
            return None
        return (time.monotonic() - self._started) / done * left


def peak_memory_gib(device: torch.device) -> float:
    """Highest use of this process so far: allocated by torch on a GPU, resident in main memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _short(value: float) -> float | None:
    """Nine digits hold every float32; JSON has no NaN."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"
