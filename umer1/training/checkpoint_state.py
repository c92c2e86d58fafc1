"""Weights and optimizer of a checkpoint.

A torch distributed checkpoint, which any number of processes reads, with DDP or FSDP2; under DeepSpeed they are
DeepSpeed's own, which the same stage and number of processes read.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from umer1.training.parallel import Parallel


def write_state(parallel: Parallel, folder: Path) -> None:
    """All processes call it; a process that cannot write raises, when all the others have written too."""
    if parallel.kind.startswith("zero"):
        with _failing_late(parallel.engine):
            parallel.engine.save_checkpoint(str(folder), tag="zero", save_latest=False)
    else:
        with _quiet():
            dcp.save(_state(parallel), checkpoint_id=str(folder), no_dist=parallel.group is None)


def read_state(parallel: Parallel, folder: Path) -> None:
    """Raises ValueError when the checkpoint lacks something that is trained now."""
    if parallel.kind.startswith("zero"):
        parallel.engine.load_checkpoint(str(folder), tag="zero", load_lr_scheduler_states=False)
        # small weights stay gathered, save after loading: ZeRO-3 would plan its next step without them
        if persistent := getattr(parallel.engine.optimizer, "persistent_parameters", []):
            persistent[0].all_gather(persistent)
        return
    state = _state(parallel)
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=str(folder), no_dist=parallel.group is None)
    except (RuntimeError, CheckpointException) as error:
        if lacks := re.search(r"Missing key in checkpoint state_dict: ([\w.]*\w)", str(error)):
            raise ValueError(
                f"{folder.parent} cannot be continued: it lacks {lacks[1]}, which another version did not train. "
                f"Start a new run with another `output`"
            ) from error
        raise
    set_state_dict(
        parallel.trainee,
        parallel.bare_optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )


def state_bytes(parallel: Parallel) -> int:
    """Of a checkpoint, by the shapes: weights, and for what is trained a master copy if the weights are narrower
    than float32, and two moments."""
    total = 0
    for parameter in parallel.trainee.parameters():
        count = getattr(parameter, "ds_numel", None) or parameter.numel()
        total += count * parameter.element_size()
        if parameter.requires_grad:
            total += count * (8 + (4 if parallel.kind.startswith("zero") else 0))
    return total


def _state(parallel: Parallel) -> dict[str, Any]:
    model, optimizer = get_state_dict(parallel.trainee, parallel.bare_optimizer)
    return {"model": model, "optimizer": optimizer}


@contextmanager
def _quiet() -> Iterator[None]:
    """That one process is one process is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def _failing_late(engine) -> Iterator[None]:
    """DeepSpeed's save ends where all processes meet: one that cannot write must come there too, or they wait for it.

    So what touches files fails only after the block, with the first error.
    """
    problems: list[Exception] = []

    def late(call):
        def calling(*arguments, **named):
            try:
                return call(*arguments, **named)
            except Exception as error:
                problems.append(error)

        return calling

    files = engine.checkpoint_engine
    writes = ((files, "save"), (files, "makedirs"), (engine, "_copy_recovery_script"))
    for owner, name in writes:
        setattr(owner, name, late(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name in writes:
            delattr(owner, name)  # the class's again
    if problems:
        raise problems[0]
