"""Checkpoints that a killed run resumes from: `checkpoints/sft/step-00000040/` in the output directory.

run.json (written last, with the size of every file), state/ (weights and optimizer), rng-00000.pt per process.
A checkpoint is written beside its place and renamed: a kill or a full disk leaves the one before as it was.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from umer1.durable import sync_folder
from umer1.training.checkpoint_folders import (
    find_checkpoints,
    flush,
    folder_of,
    prune,
    write_summary,
)
from umer1.training.checkpoint_state import read_state, state_bytes, write_state
from umer1.training.random_state import random_state, restore_random_state
from umer1.training.resuming import check_same_run
from umer1.training.settings import RunConfig

if TYPE_CHECKING:
    from umer1.training.loop import Run

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(OSError):
    """A checkpoint could not be written; the ones before it are whole."""


def save(run: Run) -> Path:
    """Writes the checkpoint of the current step; all processes call it.

    Raises:
        CheckpointError: on every process, when one of them could not write.
    """
    final = folder_of(run.output, run.stage, run.step)
    partial = final.with_name(f".{final.name}.partial")
    needed = state_bytes(run.parallel)
    problem = None
    try:
        if run.parallel.is_main:
            for stale in final.parent.glob(".step-*.partial"):  # of a run that was killed
                shutil.rmtree(stale, ignore_errors=True)
            _check_room(final.parent, needed)
            partial.mkdir(parents=True)
    except OSError as error:
        problem = error
    _agree(run, problem, partial, needed)
    try:
        write_state(run.parallel, partial / "state")
        torch.save(random_state(), partial / f"rng-{run.parallel.rank:05d}.pt")
        if run.accelerator.is_local_main_process:
            flush(partial)
    except (Exception, CheckpointException) as error:  # around the OSError of a full disk
        problem = error
    _agree(run, problem, partial, needed)
    try:
        if run.parallel.is_main:
            write_summary(partial, description(run))
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            sync_folder(final.parent)
            prune(run.output, run.stage, final, run.config.keep_checkpoints)
    except OSError as error:
        problem = error
    _agree(run, problem, partial, needed)
    return final


def resume(run: Run) -> int:
    """Loads the newest complete checkpoint of this stage; returns its step, 0 if there is none.

    Raises:
        ValueError: it belongs to another model, data or batch, or to another sharding.
    """
    say = run.accelerator.print
    for found in find_checkpoints(run.output, run.stage):
        folder, summary = found.folder, found.summary
        if found.damage:
            say(f"{run.stage}: {folder} is not whole ({found.damage}): left aside")
            continue
        for line in check_same_run(summary, description(run), folder):
            say(f"{run.stage}: {line}")
        read_state(run.parallel, folder / "state")
        restore_random_state(run, folder, summary)
        say(f"{run.stage}: resuming from {folder} at step {summary['step']}", flush=True)
        return summary["step"]
    return 0


def identity(config: RunConfig, pairs) -> dict[str, Any]:
    """What tells one training set from another: its number of pairs, by source. None: not known."""
    if pairs is None:
        return {}
    if hasattr(pairs, "source_names"):
        counts = np.bincount(np.asarray(pairs.sources), minlength=len(pairs.source_names))
        sources = dict(zip(map(str, pairs.source_names), counts.tolist()))
    else:
        sources = Counter(pair.dataset for pair in pairs)
    return {"pairs": len(pairs), "sources": dict(sorted(sources.items()))}


def description(run: Run) -> dict[str, Any]:
    """What a resumed run is compared with: config, data, processes, versions."""
    import accelerate
    import transformers

    from umer1_kernels import __version__

    versions = {
        "umer1": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "accelerate": accelerate.__version__,
    }  # fmt: skip
    return {
        "stage": run.stage,
        "step": run.step,
        "kind": run.parallel.kind,
        "processes": run.parallel.world_size,
        "config": json.loads(json.dumps(dataclasses.asdict(run.config))),
        "data": run.data,
        "shape": run.parallel.trainee.model.config.to_dict(),
        "versions": versions,
    }


def _check_room(place: Path, needed: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free")


def _agree(run: Run, problem: BaseException | None, partial: Path, needed: int) -> None:
    """The same answer on every process: go on, or one CheckpointError."""
    told = None if problem is None else _told(problem)
    everyone = [told]
    if run.parallel.group is not None:
        everyone = [None] * run.parallel.world_size
        dist.all_gather_object(everyone, told)
    problems = [f"process {rank}: {each}" for rank, each in enumerate(everyone) if each]
    if not problems:
        return
    if run.parallel.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    raise CheckpointError(
        f"{run.stage}: no checkpoint at step {run.step}: it needs {needed} bytes "
        f"({needed / 2**30:.1f} GiB) in {partial.parent}; {'; '.join(problems)}. "
        f"Checkpoints before it are whole: make room and start the same command again"
    ) from problem


def _told(problem: BaseException) -> str:
    """One line; the cause of a library's wrapped error when it is a full disk."""
    seen, waiting = set(), [problem]
    while waiting:
        each = waiting.pop()
        if id(each) in seen or each is None:
            continue
        seen.add(id(each))
        if isinstance(each, OSError) and each.errno in _FULL_DISK:
            return f"no room on the disk ({each.strerror})"
        waiting += [each.__cause__, each.__context__]
        inner = getattr(each, "failures", None)  # a distributed checkpoint's, by process
        waiting += [error for error, _ in inner.values()] if inner else []
    return (
        f"{type(problem).__name__}: {str(problem).strip().splitlines()[0] if str(problem) else ''}"
    )
