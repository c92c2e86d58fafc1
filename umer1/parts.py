"""What a long run has finished, on disk as it comes, so that a killed run goes on where it was.

    parts = Parts(directory, ".npz", write)
    for row in results:
        parts.add([row])
    parts.commit()

Rows are written as numbered files; each is written beside its place and renamed, so it is there
whole or not at all, and a row is in one part or in none.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from umer1.durable import sync_folder

# a part is written when it holds so many rows or is so old: what a kill costs
ROWS, SECONDS = 512, 5.0


class Parts:
    """Numbered files `prefix000000suffix`, … of one directory. `waiting`: rows in none of them yet.

    Args:
        write: (path, rows): writes one part through `replacing`.
        prefix: what tells these parts from those of another writer in the same directory.
    """

    def __init__(
        self,
        directory: Path,
        suffix: str,
        write: Callable[[Path, list], None],
        *,
        prefix: str = "",
    ):
        self.directory, self.suffix, self.prefix, self._write = directory, suffix, prefix, write
        self.waiting: list = []
        self._since = time.monotonic()

    @property
    def paths(self) -> list[Path]:
        return sorted(self.directory.glob(f"{self.prefix}[0-9]*{self.suffix}"))

    @property
    def due(self) -> bool:
        """Rows wait, and have done so for long or are many."""
        waited = time.monotonic() - self._since >= SECONDS
        return bool(self.waiting) and (waited or len(self.waiting) >= ROWS)

    def add(self, rows: list) -> None:
        """Rows that have finished; they are on disk after the next part."""
        self.waiting += rows
        if self.due:
            self.commit()

    def commit(self) -> None:
        """Write what has finished as the next part."""
        if self.waiting:
            name = f"{self.prefix}{len(self.paths):06d}{self.suffix}"
            self._write(self.directory / name, self.waiting)
            self.waiting = []
        self._since = time.monotonic()


def take_lock(directory: Path, refusal: str, *, name: str = "lock"):
    """An open file whose lock this process holds until it is closed or the process ends.

    name: of the file in `directory`. Raises ValueError(refusal) if another process holds it.
    """
    lock = open(directory / name, "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ValueError(refusal) from None
    return lock


def remove_strays(directory: Path) -> None:
    """What killed processes left half-written; none may be at work there."""
    for stray in directory.glob(".*.tmp"):
        stray.unlink(missing_ok=True)


class replacing:
    """A file under a temporary name beside `path` that takes its place when the block ends well.

    sync: it is on the disk when the block ends, and survives a crash of the machine; False is for
    what can be made again.
    """

    def __init__(self, path: Path, *, sync: bool = True):
        self.path, self.sync = path, sync
        # processes of several machines may share the directory
        writer = f"{os.uname().nodename}.{os.getpid()}"
        self.temporary = path.with_name(f".{path.name}.{writer}.tmp")

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.temporary, "wb")  # noqa: SIM115
        return self.file

    def __exit__(self, kind, *error) -> None:
        try:
            if kind is None and self.sync:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                os.replace(self.temporary, self.path)
                if self.sync:
                    sync_folder(self.path.parent)
        finally:
            self.temporary.unlink(missing_ok=True)
