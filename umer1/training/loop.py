"""What both stages need around their step: processes, learning rate, update, logs, checkpoints.

state = Run(config, total_steps, processor, stage="sft", pairs=store)
model, optimizer = state.prepare(Trainee(qwen))         # resumes if there is a checkpoint
while not state.finished:
    rate = state.set_learning_rate(optimizer)
    for micro in range(accumulation):
        with state.part(last=micro == accumulation - 1):    # once per backward pass
            loss = ... model(work) ...
            state.backward(loss / accumulation)
    norm = state.update(numbers, where)                 # clip, step, count; NaN policy
    state.log({...})
    state.save_if_due()                                 # checkpoints, SIGTERM
return state.save_final()
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

from umer1.model.checkpoint import save_model
from umer1.processor import Processor
from umer1.training import checkpoints
from umer1.training.lora import merged, save_adapters
from umer1.training.monitor import Monitor
from umer1.training.parallel import Parallel
from umer1.training.settings import OptimizerConfig, RunConfig
from umer1.training.survival import Signals, leave, report_nan
from umer1.training.trainable import parameter_groups
from umer1.training.wrapped import Trainee


class Run:
    """State of one training run: where it is, what it logs, what it saves."""

    def __init__(
        self, config: RunConfig, total_steps: int, processor: Processor, *, stage: str, pairs=None
    ):
        """pairs: what is trained on; a resumed run checks that it is the same."""
        if not config.output:
            raise ValueError(
                "output: wants a directory for checkpoints and the final model, got nothing"
            )
        self.config, self.total_steps, self.processor = config, total_steps, processor
        self.stage, self.output = stage, Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.parallel = Parallel(config)
        self.accelerator = self.parallel.accelerator
        if config.time_limit_seconds and self.parallel.world_size > 1:
            raise ValueError("time_limit_seconds: works with one process; use steps on several")
        self.monitor = Monitor(
            self.output, stage, self.accelerator, config, total_steps=total_steps
        )
        self.part, self.backward = self.parallel.part, self.parallel.backward
        self.step = 0
        self.skipped = 0  # steps whose update was left out for NaN
        self.data = checkpoints.identity(config, pairs)
        self._started = self._saved_at = time.monotonic()
        self.signals = Signals()
        weakref.finalize(self, self.signals.restore)  # a run that ended in an error handles no more

    # -- start and end ----------------------------------------------------------------------------------------------

    def prepare(self, trainee: Trainee):
        """(module to call, optimizer), after loading this stage's newest checkpoint, if there is one."""
        self.trainee = trainee
        model, optimizer = self.parallel.prepare(
            trainee, lambda module: make_optimizer(module, self.config)
        )
        self.step = self._saved_step = checkpoints.resume(self)
        self.monitor.begin(self.step)
        return model, optimizer

    def save_final(self) -> Path:
        """The finished model, in Hugging Face form, at <output>/model."""
        target = self.output / "model"
        with self.parallel.whole_weights(main_only=True) as qwen:
            if qwen is not None:
                if self.config.lora.rank:
                    save_adapters(qwen, self.config.lora, self.output / "adapter")
                with merged(qwen):
                    save_model(qwen, target)
                self.processor.save(target)
        self.accelerator.wait_for_everyone()
        self.monitor.close()
        self.signals.restore()
        return target

    # -- schedule ---------------------------------------------------------------------------------------------------

    @property
    def fraction(self) -> float:
        """Share of the run that is over, by steps or by the clock, whichever is further."""
        by_steps = self.step / self.total_steps
        limit = self.config.time_limit_seconds
        return max(by_steps, (time.monotonic() - self._started) / limit) if limit else by_steps

    @property
    def finished(self) -> bool:
        return self.fraction >= 1.0

    def set_learning_rate(self, optimizer: torch.optim.Optimizer) -> float:
        rate = learning_rate(self.config.optimizer, self.fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate

    # -- a step -----------------------------------------------------------------------------------------------------

    def update(
        self, numbers: dict[str, float], where: Callable[[], list[str]] = lambda: []
    ) -> float | None:
        """One optimizer step of the gradients there are, and the next step number.

        Args:
            numbers: this process's losses, where: names of its pairs; both for the dump of a step that is NaN.

        Returns:
            The gradient norm before clipping; None for a step left out (`on_nan: skip`).

        Raises:
            FloatingPointError: a loss or the gradient is NaN or infinite, and `on_nan` is "stop".
        """
        norm = self.parallel.update(self.config.optimizer.clip_grad_norm)
        self.step += 1
        if norm is None:
            self.skipped += 1
            report_nan(self, numbers, where())
        return norm

    def save_if_due(self) -> None:
        """A checkpoint when `save_every` or `save_every_minutes` says so, or a signal came: then also the end.

        Raises:
            SystemExit: 143 after SIGTERM, 130 after SIGINT, with the checkpoint saved.
        """
        config = self.config
        minutes = (time.monotonic() - self._saved_at) / 60
        by_clock = 0 < config.save_every_minutes <= minutes
        # one exchange: a signal's number, or 1 when the time has come; the processes must agree
        news = self.parallel.largest(self.signals.received or int(by_clock))
        every = config.save_every
        due = news or (every and self.step // every > self._saved_step // every)
        if not due or (self.finished and news <= 1):
            return
        folder = checkpoints.save(self)
        self._saved_at, self._saved_step = time.monotonic(), self.step
        if news > 1:
            leave(self, news, folder)

    # -- logs -------------------------------------------------------------------------------------------------------

    def log(self, numbers: dict[str, float]) -> None:
        """Report the step that has just ended, see `Monitor.step`."""
        skipped = {"skipped": float(self.skipped)} if self.skipped else {}
        self.monitor.step(self.step, {**numbers, **skipped})


def learning_rate(config: OptimizerConfig, fraction: float) -> float:
    """Rate after `fraction` (0 to 1) of the run: linear warm-up, then the schedule down to zero."""
    if fraction < config.warmup_ratio:
        return config.learning_rate * max(fraction / config.warmup_ratio, 0.01)
    rest = (fraction - config.warmup_ratio) / max(1 - config.warmup_ratio, 1e-9)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "linear":
        return config.learning_rate * max(1 - rest, 0.0)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def make_optimizer(module: torch.nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters."""
    settings = config.optimizer
    return torch.optim.AdamW(
        parameter_groups(module, settings.weight_decay),
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )
