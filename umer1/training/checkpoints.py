"""Checkpoints that a killed run resumes from: `checkpoints/step-00000040/` in the output directory.

run.json (written last, with the size of every file), state/ (weights and optimizer), rng-00000.pt per process.
A checkpoint is written beside its place and renamed: a kill or a full disk leaves the one before as it was.

Weights and optimizer are a torch distributed checkpoint, which any number of processes reads, with DDP or FSDP2;
under DeepSpeed they are DeepSpeed's own, which the same stage and number of processes read.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

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
    final = _place(run) / f"step-{run.step:08d}"
    partial = final.with_name(f".{final.name}.partial")
    needed = _bytes(run)
    problem = None
    try:
        if run.parallel.is_main:
            _check_room(final.parent, needed)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    except OSError as error:
        problem = error
    _agree(run, problem, partial, needed)
    try:
        _write_state(run, partial / "state")
        torch.save(_random_state(), partial / f"rng-{run.parallel.rank:05d}.pt")
        if run.accelerator.is_local_main_process:
            _flush(partial)
    except Exception as error:  # a library's own kinds, around the OSError of a full disk
        problem = error
    _agree(run, problem, partial, needed)
    try:
        if run.parallel.is_main:
            _write_summary(run, partial)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            _flush_folder(final.parent)
            _prune(run)
    except OSError as error:
        problem = error
    _agree(run, problem, partial, needed)
    return final


def resume(run: Run) -> int:
    """Loads the newest complete checkpoint of this stage; returns its step, 0 if there is none.

    Raises:
        ValueError: it belongs to another model, data or batch, or to another sharding.
    """
    for folder in sorted(_place(run).glob("step-*"), reverse=True):
        summary = json.loads((folder / "run.json").read_text())
        if summary["stage"] != run.stage:
            continue
        if damaged := _damage(folder, summary):
            run.accelerator.print(f"{run.stage}: {folder} is not whole ({damaged}): left aside")
            continue
        for line in check_same_run(summary, description(run), folder):
            run.accelerator.print(f"{run.stage}: {line}")
        _read_state(run, folder / "state")
        _restore_random_state(run, folder, summary)
        run.accelerator.print(
            f"{run.stage}: resuming from {folder} at step {summary['step']}", flush=True
        )
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


# -- weights and optimizer ----------------------------------------------------------------------------------------


def _write_state(run: Run, folder: Path) -> None:
    if run.parallel.kind.startswith("zero"):
        run.parallel.engine.save_checkpoint(str(folder), tag="zero", save_latest=False)
    else:
        dcp.save(_state(run), checkpoint_id=str(folder), no_dist=run.parallel.group is None)


def _read_state(run: Run, folder: Path) -> None:
    parallel = run.parallel
    if parallel.kind.startswith("zero"):
        parallel.engine.load_checkpoint(str(folder), tag="zero", load_lr_scheduler_states=False)
        return
    state = _state(run)
    dcp.load(state, checkpoint_id=str(folder), no_dist=parallel.group is None)
    set_state_dict(
        parallel.trainee,
        parallel.bare_optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )


def _state(run: Run) -> dict[str, Any]:
    model, optimizer = get_state_dict(run.parallel.trainee, run.parallel.bare_optimizer)
    return {"model": model, "optimizer": optimizer}


def _bytes(run: Run) -> int:
    """Bytes of a checkpoint, by the shapes: weights, and for what is trained a master copy if the weights are
    narrower than float32, and two moments."""
    total = 0
    for parameter in run.parallel.trainee.parameters():
        count = getattr(parameter, "ds_numel", None) or parameter.numel()
        total += count * parameter.element_size()
        if parameter.requires_grad:
            total += count * (8 + (4 if run.parallel.kind.startswith("zero") else 0))
    return total


# -- files ----------------------------------------------------------------------------------------------------------


def _place(run: Run) -> Path:
    return run.output / "checkpoints"


def _check_room(place: Path, needed: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free")


def _agree(run: Run, problem: Exception | None, partial: Path, needed: int) -> None:
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


def _write_summary(run: Run, partial: Path) -> None:
    files = {
        str(path.relative_to(partial)): path.stat().st_size
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    }
    path = partial / "run.json"
    path.write_text(json.dumps({**description(run), "files": files}, indent=1) + "\n")
    _flush(partial, only=[path])


def _damage(folder: Path, summary: dict) -> str:
    for name, size in summary.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return ""


def _prune(run: Run) -> None:
    kept = sorted(_place(run).glob("step-*"))
    for old in kept[: -run.config.keep_checkpoints or None] if run.config.keep_checkpoints else []:
        shutil.rmtree(old)


def _flush(folder: Path, only: list[Path] | None = None) -> None:
    """Onto the disk: a rename must not survive a crash that its files do not."""
    for path in only or [each for each in folder.rglob("*") if each.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- random numbers -------------------------------------------------------------------------------------------------


def _random_state() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore_random_state(run: Run, folder: Path, summary: dict) -> None:
    """As it was; a process that was not there before gets a state of its own from seed, step and rank."""
    path = folder / f"rng-{run.parallel.rank:05d}.pt"
    if not path.exists() or summary["processes"] != run.parallel.world_size:
        chance = np.random.SeedSequence([run.config.seed, summary["step"], run.parallel.rank])
        first, second, third = (int(each) for each in chance.generate_state(3))
        random.seed(first)
        np.random.seed(second)
        torch.manual_seed(third)
        return
    state = torch.load(path, weights_only=False)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
