"""What both stages need around their step: learning rate, logs, checkpoints that a killed run resumes from."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from umer1.model.checkpoint import save_model
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.training.monitor import Monitor
from umer1.training.settings import OptimizerConfig, RunConfig


class Run:
    """State of one training run: where it is, what it logs, what it saves."""

    def __init__(self, config: RunConfig, total_steps: int, processor: Processor, *, stage: str):
        if not config.output:
            raise ValueError(
                "output: wants a directory for checkpoints and the final model, got nothing"
            )
        self.config, self.total_steps, self.processor, self.stage = (
            config,
            total_steps,
            processor,
            stage,
        )
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # else torchrun on CPUs starts as many lone runs
            mixed_precision=config.mixed_precision,
            step_scheduler_with_optimizer=False,
        )
        if config.time_limit_seconds and self.accelerator.num_processes > 1:
            raise ValueError("time_limit_seconds: works with one process; use steps on several")
        self.monitor = Monitor(
            self.output, stage, self.accelerator, config, total_steps=total_steps
        )
        self.step = 0
        self._started = time.monotonic()

    # -- schedule -------------------------------------------------------------------------------------------------

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

    # -- logs -----------------------------------------------------------------------------------------------------

    def log(self, numbers: dict[str, float]) -> None:
        """Report the step that has just ended, see `Monitor.step`."""
        self.monitor.step(self.step, numbers)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Everything needed to go on, written aside and renamed: a kill leaves the last complete one."""
        final = self.output / "checkpoints" / f"step-{self.step:08d}"
        partial = final.with_name(f".{final.name}.partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (partial / "run.json").write_text(json.dumps({"stage": self.stage, "step": self.step}))
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            kept = sorted((self.output / "checkpoints").glob("step-*"))
            for old in kept[: -self.config.keep_checkpoints or None]:
                shutil.rmtree(old)

    def resume(self) -> bool:
        """Load the newest complete checkpoint of this stage, if there is one. Call after `accelerator.prepare`."""
        for folder in sorted((self.output / "checkpoints").glob("step-*"), reverse=True):
            state = json.loads((folder / "run.json").read_text())
            if state["stage"] != self.stage:
                continue
            self.accelerator.load_state(str(folder))
            self.step = state["step"]
            self.monitor.begin(self.step)
            self.accelerator.print(f"{self.stage}: resuming from {folder} at step {self.step}")
            return True
        self.monitor.begin(0)
        return False

    def save_final(self, model: Qwen2VL) -> Path:
        """The finished model, in Hugging Face form, at <output>/model."""
        target = self.output / "model"
        if self.accelerator.is_main_process:
            save_model(self.accelerator.unwrap_model(model), target)
            self.processor.save(target)
        self.accelerator.wait_for_everyone()
        self.monitor.close()
        return target


def learning_rate(config: OptimizerConfig, fraction: float) -> float:
    """Rate after `fraction` (0 to 1) of the run: linear warm-up, then the schedule down to zero."""
    if fraction < config.warmup_ratio:
        return config.learning_rate * max(fraction / config.warmup_ratio, 0.01)
    rest = (fraction - config.warmup_ratio) / max(1 - config.warmup_ratio, 1e-9)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "linear":
        return config.learning_rate * max(1 - rest, 0.0)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
    raise ValueError(
        f"optimizer.schedule: got {config.schedule!r}, wants 'cosine', 'linear' or 'constant'"
    )


def make_optimizer(model: Qwen2VL, config: RunConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; the vision tower (not its merger) is frozen if the config says so."""
    if config.freeze_vision:
        model.vision.requires_grad_(False)
        model.vision.merger.requires_grad_(True)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = config.optimizer
    return torch.optim.AdamW(
        trainable,
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
