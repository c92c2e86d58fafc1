"""TensorBoard and Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import dataclasses
import uuid
from importlib.util import find_spec
from pathlib import Path

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from umer1.training.settings import RunConfig


def check_trackers(config: RunConfig) -> None:
    """Raises ValueError where a tracker that was asked for by name cannot be had."""
    if config.wandb_project and find_spec("wandb") is None:
        raise ValueError(
            f"wandb_project: got {config.wandb_project!r}, but the package wandb is not installed "
            f"(pip install wandb, or leave wandb_project empty)"
        )


def open_trackers(config: RunConfig, run_dir: Path, stage: str, step: int) -> list[GeneralTracker]:
    """TensorBoard always (`<run_dir>/<stage>_log`), wandb if `wandb_project` names a project. Main process only.

    Args:
        step: the run goes on after this one; what an earlier process logged beyond it is purged (TensorBoard), or
            stays as it is and its repetition is dropped (wandb, whose steps only grow).
    """
    trackers: list[GeneralTracker] = []
    if find_spec("tensorboard") is None:
        print("tensorboard is not installed: no event files (pip install tensorboard)", flush=True)
    else:
        trackers.append(
            TensorBoardTracker(f"{stage}_log", str(run_dir), purge_step=step + 1 if step else None)
        )
    if config.wandb_project:
        trackers.append(
            WandBTracker(
                config.wandb_project,
                name=f"{run_dir.name}-{stage}",
                dir=str(run_dir),
                id=_wandb_id(run_dir, stage, step),
                resume="allow",
                config=dataclasses.asdict(config) | {"stage": stage},
            )
        )
    for tracker in trackers:
        tracker.start()
    return trackers


def _wandb_id(run_dir: Path, stage: str, step: int) -> str:
    """The id of this run: kept beside it, so that a resumed run goes on under the same curve."""
    kept = run_dir / f"{stage}_wandb_id"
    if step and kept.exists():
        return kept.read_text().strip()
    kept.write_text(made := uuid.uuid4().hex[:12])
    return made
