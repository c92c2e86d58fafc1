"""A long run on disk: results in parts as they come, so that a killed run goes on where it was.

    with Journal(output, run, ids) as journal:
        for identity in journal.missing:
            journal.add(row)
        journal.finish()

While the run lasts, its directory (`<output>.partial`, or `output` itself if that has no ending)
holds run.json, which says what is being computed, and numbered parts. A part is written under
another name and renamed, so it is there whole or not at all; an item is in one part or in none.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from umer1.cli import vectors

# a part is written when it holds so many rows or is so old: what a kill costs
ROWS, SECONDS = 512, 5.0


def describe_run(ids: list[str], items: list[dict], **settings) -> dict:
    """What makes two runs the same: their items, in order, and everything a vector depends on."""
    content = json.dumps([ids, items], ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return {"items": len(ids), "content": digest, **settings}


class Journal:
    """Attributes: `done`, ids that are on disk; `missing`, places in `ids` of the others."""

    def __init__(self, output: Path, run: dict, ids: list[str]):
        """Start a run or go on with it.

        Raises:
            ValueError: the directory holds another run, or another process works on this one.
        """
        self.output, self.run, self.ids = output, run, ids
        self.directory = output
        if output.suffix:
            self.directory = output.with_name(f"{output.name}.partial")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.directory / "lock", "w")  # noqa: SIM115
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise
        self._rows: list[dict] = []
        self._since = time.monotonic()

    def _take_over(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.output}: another process is writing it") from None
        # what a killed process left half-written
        for stray in self.directory.glob(".*.tmp"):
            stray.unlink()
        self._check_run()
        self.done = {row["id"] for part in self.parts for row in vectors.read(part, vectors=False)}
        self.missing = [place for place, name in enumerate(self.ids) if name not in self.done]

    def _check_run(self) -> None:
        path = self.directory / "run.json"
        if not path.exists():
            others = [name for name in os.listdir(self.directory) if name != "lock"]
            if others:
                raise ValueError(f"{self.directory}: holds {others[0]}, and no run of umer1 embed")
            with vectors.replacing(path) as file:
                file.write(json.dumps(self.run, indent=1).encode() + b"\n")
            return
        before = json.loads(path.read_text())
        changed = [name for name in self.run if before.get(name) != self.run[name]]
        if changed:
            name = changed[0]
            raise ValueError(
                f"{self.directory}: holds a run with other settings ({name} was "
                f"{before.get(name)!r}, is {self.run[name]!r}); delete it to start again"
            )

    @property
    def parts(self) -> list[Path]:
        return sorted(path for path in self.directory.glob(f"[0-9]*{self._suffix}"))

    @property
    def _suffix(self) -> str:
        return self.output.suffix or ".npz"

    def add(self, rows: list[dict]) -> None:
        """Rows that have finished; they are on disk after the next part."""
        self._rows += rows
        if len(self._rows) >= ROWS or time.monotonic() - self._since >= SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write what has finished as the next part."""
        if self._rows:
            path = self.directory / f"{len(self.parts):06d}{self._suffix}"
            vectors.write(path, self._rows, self._about)
            self._rows = []
        self._since = time.monotonic()

    def finish(self) -> list[dict]:
        """Everything is there: make the output of the parts; the rows without vectors, in order."""
        self.commit()
        rows = {row["id"]: row for part in self.parts for row in vectors.read(part, vectors=False)}
        if self.directory != self.output:
            vectors.merge(self.parts, self.ids, self.output, self._about)
            # what says whose parts these are goes last: a kill in between is a run to go on with
            for path in (*reversed(self.parts), self.directory / "run.json"):
                path.unlink()
            shutil.rmtree(self.directory)
        return [rows[identity] for identity in self.ids]

    @property
    def _about(self) -> dict[str, str]:
        return {name: self.run[name] for name in ("model", "readout")}

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error) -> None:
        """Interrupted or failed: what has finished is kept."""
        try:
            self.commit()
        finally:
            self._lock.close()
