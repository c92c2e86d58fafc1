"""A long run on disk: results in parts as they come, so that a killed run goes on where it was.

    with Journal(output, run, ids) as journal:
        for identity in journal.missing:
            journal.add(row)
        journal.finish()

While the run lasts, its directory (`<output>.partial`, or `output` itself if that has no ending)
holds run.json, which says what is being computed, and numbered parts (umer1.parts).
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

from umer1.cli import vectors
from umer1.parts import Parts, remove_strays, replacing, take_lock


def describe_run(ids: list[str], items: list[dict], **settings) -> dict:
    """What makes two runs the same: their items, in order, and everything a vector depends on."""
    # media that a table holds say where they are and have a digest of their bytes
    content = json.dumps([ids, items], ensure_ascii=False, sort_keys=True, default=str)
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
        self._parts = Parts(self.directory, output.suffix or ".npz", self._write)
        self._lock = take_lock(self.directory, f"{output}: another process is writing it")
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise

    def _take_over(self) -> None:
        remove_strays(self.directory)
        self._check_run()
        self.done = {row["id"] for part in self.parts for row in vectors.read(part, vectors=False)}
        self.missing = [place for place, name in enumerate(self.ids) if name not in self.done]

    def _check_run(self) -> None:
        path = self.directory / "run.json"
        if not path.exists():
            others = [name for name in os.listdir(self.directory) if name != "lock"]
            if others:
                raise ValueError(f"{self.directory}: holds {others[0]}, and no run of umer1 embed")
            with replacing(path) as file:
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
        return self._parts.paths

    def add(self, rows: list[dict]) -> None:
        """Rows that have finished; they are on disk after the next part."""
        self._parts.add(rows)

    def commit(self) -> None:
        """Write what has finished as the next part."""
        self._parts.commit()

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

    def _write(self, path: Path, rows: list[dict]) -> None:
        vectors.write(path, rows, self._about)

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
