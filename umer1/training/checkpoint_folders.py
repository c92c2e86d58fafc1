"""Where a run's checkpoints lie, which of them are whole, and which are kept.

<output>/checkpoints/<stage>/step-00000040/ : a stage knows nothing of the other's, so both may share an output.
Before, they lay in <output>/checkpoints/step-00000040/; such ones are found too, by the stage in their run.json.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umer1.durable import sync_folder


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint's folder. `damage`: what is wrong with it, "" if it is whole."""

    folder: Path
    step: int
    summary: dict[str, Any]
    damage: str


def folder_of(output: Path, stage: str, step: int) -> Path:
    return output / "checkpoints" / stage / f"step-{step:08d}"


def find_checkpoints(output: Path, stage: str) -> list[Found]:
    """Of this stage, newest first, damaged ones included."""
    place = output / "checkpoints"
    found = [_read(folder) for folder in _folders(place / stage)]
    old = [_read(folder) for folder in _folders(place)]
    found += [each for each in old if each.summary.get("stage", stage) == stage]
    return sorted(found, key=lambda each: (each.step, each.folder.parent != place), reverse=True)


def prune(output: Path, stage: str, written: Path, keep: int) -> None:
    """After `written`: of what is not newer, only it and the newest whole ones stay, `keep` together; 0: all."""
    if not keep:
        return
    found = find_checkpoints(output, stage)
    step = next(each.step for each in found if each.folder == written)
    before = [each for each in found if each.step <= step and each.folder != written]
    kept = [each for each in before if not each.damage][: keep - 1]
    for each in before:
        ours = each.summary or each.folder.parent == written.parent  # not maybe the other stage's
        if ours and each not in kept:
            shutil.rmtree(each.folder)


def write_summary(folder: Path, description: dict[str, Any]) -> None:
    """run.json, last of all: the description, and the size of every file there is."""
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    path = folder / "run.json"
    path.write_text(json.dumps({**description, "files": files}, indent=1) + "\n")
    flush(folder, only=[path])


def flush(folder: Path, only: list[Path] | None = None) -> None:
    """Onto the disk: a rename must not survive a crash that its files do not."""
    for path in only or [each for each in folder.rglob("*") if each.is_file()]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _folders(place: Path) -> list[Path]:
    return [each for each in place.glob("step-*") if re.fullmatch(r"step-\d+", each.name)]


def _read(folder: Path) -> Found:
    step = int(folder.name.removeprefix("step-"))
    try:
        summary = json.loads((folder / "run.json").read_text())
        files = summary["files"]
    except (OSError, ValueError, KeyError) as error:
        return Found(folder, step, {}, f"run.json: {type(error).__name__} {error}")
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            return Found(folder, step, summary, f"{name} is missing")
        if path.stat().st_size != size:
            damage = f"{name} has {path.stat().st_size} bytes instead of {size}"
            return Found(folder, step, summary, damage)
    return Found(folder, step, summary, "")
