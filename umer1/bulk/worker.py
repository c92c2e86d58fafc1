"""One shard: read its rows, embed them, write its file. Done twice, it is done once.

The file's name follows from the shard, its bytes from the run, and it appears whole by renaming. So
a worker may die at any moment, another one takes the shard, and if both live they write the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umer1.bulk import shard_files
from umer1.bulk.inputs import Shard, rows
from umer1.bulk.rows import item_of_row
from umer1.bulk.run import Run
from umer1.prompts import parse_item

# a shard that ended so many workers ends the run
ATTEMPTS = 5
# what unusable items raise
BAD = (ValueError, TypeError, OSError)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A shard whose file is there. `found`: it was there before. `bad`: items without vectors;
    `missed`: generations without `<gen_emb>`; `seconds`: this worker's, 0 if found."""

    shard: int
    items: int
    bad: int
    missed: int
    tokens: int
    found: bool
    seconds: float


class ShardWorker:
    """Args:
    load: gives the Embedder; called with the first shard that is not there yet.
    bad_items: "stop": an unusable item is an error; "record": its row says why in `error`.
    """

    def __init__(self, run: Run, load: Callable[[], Any], bad_items: str = "stop"):
        if bad_items not in ("stop", "record"):
            raise ValueError(f"bad_items: got {bad_items!r}, wants 'stop' or 'record'")
        self.run, self.bad_items = run, bad_items
        self._load, self._embedder = load, None

    def __call__(self, shard: Shard) -> Receipt:
        """Raises ValueError for an unusable item, or for a shard that ended too many workers."""
        path = self.run.shard_path(shard)
        about = shard_files.read_about(path)
        if about is not None and about.get("run") == self.run.digest:
            sums = {name: int(about[name]) for name in ("items", "bad", "missed", "tokens")}
            return Receipt(shard.number, **sums, found=True, seconds=0.0)
        began = time.monotonic()
        attempts = self._attempt(shard)
        found = self._embed(shard)
        sums = {
            "items": len(found),
            "bad": sum(row.get("error") is not None for row in found),
            "missed": sum(end != "gen_emb" for row in found for end in _listed(row.get("finish"))),
            "tokens": sum(count for row in found for count in _listed(row.get("tokens"))),
        }
        options = self.run.options
        schema = shard_files.table_schema(
            options["mode"], options.get("n", 1), self.embedder.dimension
        )
        names = ("model", "readout")
        about = {name: str(self.run.settings[name]) for name in names if name in self.run.settings}
        about |= {"run": self.run.digest, "shard": str(shard.number)}
        about |= {name: str(value) for name, value in sums.items()}
        shard_files.write(path, found, schema, about)
        attempts.unlink(missing_ok=True)
        return Receipt(shard.number, **sums, found=False, seconds=time.monotonic() - began)

    @property
    def embedder(self):
        if self._embedder is None:
            self._embedder = self._load()
        return self._embedder

    def _attempt(self, shard: Shard) -> Path:
        """Note that a worker begins; whoever dies leaves its line."""
        path = self.run.attempts_path(shard)
        before = path.read_text().splitlines() if path.exists() else []
        if len(before) >= ATTEMPTS:
            raise ValueError(
                f"shard {shard.number} ({shard.about}) ended {len(before)} workers; the last "
                f"one was {before[-1]}"
            )
        path.parent.mkdir(exist_ok=True)
        with open(path, "a") as file:
            file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        return path

    def _embed(self, shard: Shard) -> list[dict]:
        """The rows of the shard's file."""
        found, items, wheres = [], {}, []
        default = {"instruction": self.run.instruction} if self.run.instruction else {}
        for place, (where, row) in enumerate(rows(shard)):
            found.append({"number": shard.first + place, "id": _printable(where)})
            wheres.append(where)
            try:
                if isinstance(row, Exception):
                    raise ValueError(f"{where}: {row}")
                directory = Path(shard.path).parent
                found[place]["id"], item = item_of_row(row, where, directory)
                parse_item(item, where)
                items[place] = default | item
            except BAD as error:
                self._bad(found[place], error)
        self._compute(found, items, wheres)
        return found

    def _compute(self, found: list[dict], items: dict[int, dict], wheres: list[str]) -> None:
        """Fill the rows. If an item stops the generation, the bad ones are sought and left out.

        `items` loses what is done.
        """
        while items:
            places = list(items)
            results = self.embedder.stream(
                [items[place] for place in places],
                numbers=[found[place]["number"] for place in places],
                **self.run.options,
            )
            try:
                for at, result in results:
                    found[places[at]] |= _values(result)
                    del items[places[at]]
            except BAD as error:
                if errors := self._unusable(items, wheres):
                    for place, reason in errors.items():
                        self._bad(found[place], reason)
                        del items[place]
                elif len(items) > 1:
                    # nothing is wrong with what went in: what the engine refuses is found alone
                    for place in list(items):
                        self._compute(found, {place: items.pop(place)}, wheres)
                else:
                    place, _ = items.popitem()
                    self._bad(found[place], ValueError(f"{wheres[place]}: {error}"))

    def _unusable(self, items: dict[int, dict], wheres: list[str]) -> dict[int, Exception]:
        """The items that cannot even be opened, and why."""
        mode = "disc" if self.run.options["mode"] == "disc" else "gen"
        errors = {}
        for place, item in items.items():
            try:
                self.embedder.processor.encode(parse_item(item, wheres[place]), mode=mode)
            except BAD as error:
                errors[place] = error
        return errors

    def _bad(self, row: dict, error: Exception) -> None:
        if self.bad_items == "stop":
            raise error
        row["error"] = _printable(str(error))


def _values(result) -> dict:
    """The columns of one item's Embeddings."""
    names = [name for name in ("reasoning", "summary", "finish", "tokens") if getattr(result, name)]
    names += [name for name in shard_files.VECTORS if getattr(result, name) is not None]
    return {name: getattr(result, name)[0] for name in names}


def _listed(value) -> list:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()
