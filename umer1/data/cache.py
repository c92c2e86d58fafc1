"""Files that are made once from a data file and kept: beside it, or in the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

FOLDER = ".umer1-index"


def cache_name(path: Path, version: int) -> str:
    """The file's name with a digest of its path, size and time of change."""
    status = path.stat()
    told = f"{os.fspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\0{version}"
    return f"{path.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def cache_folders(path: Path) -> list[Path]:
    """Where what was made of `path` may be kept, best place first."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [path.parent / FOLDER, Path(cache) / "umer1" / "index"]


def writable_folder(path: Path) -> Path | None:
    """The first of `cache_folders` that takes files; None if none does."""
    for folder in cache_folders(path):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    return None


def write_whole(target: Path, write: Callable[[BinaryIO], object]) -> None:
    """Written aside, then renamed: never half there."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "a") as file:
        with contextlib.suppress(OSError):  # a file system without locks: each builds its own
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
