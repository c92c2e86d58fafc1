"""One run over a collection: what is computed, and the directory that holds it.

run.json                       what every vector depends on
lists/*.jsonl                  lists of the media of directories
shards/000000/000000000.parquet   one per shard, there whole or not at all
attempts/                      shards that are being computed; empty afterwards
done.json                      everything is there
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from umer1.bulk.inputs import Scan, Shard, shards
from umer1.parts import remove_strays, replacing

# shards in one directory
DIRECTORY = 1000


@dataclass(frozen=True)
class Run:
    """Small enough for every worker to hold.

    settings: everything a vector depends on; of the inputs their digest. options: of
    `Embedder.stream`. instruction: put before the text of items that have none of their own.
    """

    directory: Path
    settings: dict
    options: dict
    instruction: str | None = None

    @cached_property
    def digest(self) -> str:
        """Of everything a vector depends on; kept in each of its files."""
        text = json.dumps(self.settings, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def shard_path(self, shard: Shard) -> Path:
        folder = f"{shard.number // DIRECTORY:06d}"
        return self.directory / "shards" / folder / f"{shard.number:09d}.parquet"

    def attempts_path(self, shard: Shard) -> Path:
        return self.directory / "attempts" / f"{shard.number:09d}"

    @property
    def done_path(self) -> Path:
        return self.directory / "done.json"

    def done(self) -> dict | None:
        """What `finish` wrote."""
        return json.loads(self.done_path.read_text()) if self.done_path.exists() else None

    def take_over(self) -> None:
        """Write run.json, or see that the one there is of this run; then clear what earlier
        workers left. The caller holds the directory's lock.

        Raises:
            ValueError: the directory holds something else.
        """
        path, wanted = self.directory / "run.json", {"run": self.digest, **self.settings}
        if path.exists():
            _same(json.loads(path.read_text()), wanted, self.directory)
        else:
            refuse_strangers(self.directory)
            with replacing(path) as file:
                file.write(json.dumps(wanted, indent=1, ensure_ascii=False).encode() + b"\n")
        shutil.rmtree(self.directory / "attempts", ignore_errors=True)
        (self.directory / "attempts").mkdir()
        shards = (self.directory / "shards").glob("*")
        for folder in (self.directory, self.directory / "lists", *shards):
            remove_strays(folder)

    def finish(self, sums: dict) -> dict:
        """Every shard is there: say so."""
        shutil.rmtree(self.directory / "attempts", ignore_errors=True)
        content = {"run": self.digest, **sums}
        with replacing(self.done_path) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
        return content


def refuse_strangers(directory: Path) -> None:
    """ValueError if the directory holds something, and no run."""
    ours = ("lock", "lists", ".run.json.")
    names = os.listdir(directory)
    others = [name for name in names if not name.startswith(ours)]
    if others and "run.json" not in names:
        raise ValueError(f"{directory}: holds {min(others)}, and no run of this kind")


def plan(
    directory: Path,
    scans: list[Scan],
    *,
    model: str,
    options: dict,
    instruction: str | None = None,
    shard_items: int = 1024,
) -> tuple[Run, list[Shard]]:
    """The run over these files, and its shards. options: of `Embedder.stream`, with a `mode`."""
    found = shards(scans)
    content = hashlib.sha256()
    for each in scans:
        content.update(f"{each.path}\0{each.items}\0{each.digest}\n".encode(errors="surrogatepass"))
    settings = {
        "model": model,
        "items": sum(each.items for each in scans),
        "shards": len(found),
        "shard_items": shard_items,
        "content": content.hexdigest(),
        "instruction": instruction,
        **{name: value for name, value in options.items() if name != "batch_size"},
    }
    return Run(Path(directory), settings, options, instruction), found


def _same(before: dict, wanted: dict, directory: Path) -> None:
    # the run's own digest last: it says least
    for name in sorted(wanted, key=lambda name: name == "run"):
        if before.get(name) != wanted[name]:
            raise ValueError(
                f"{directory}: holds a run with other settings ({name} was {before.get(name)!r}, "
                f"is {wanted[name]!r}); delete it to start again"
            )
