"""The files of an index that only grow, and what is read from them.

In the folder that the manifest names:

    disc.vectors, gen.vectors   a record per row (RowFormat)
    items.jsonl                 a line per row: {"id": …, "entry": {…}}
    items.ends                  int64 per row: where its line ends
    deleted                     int64 per deletion: the row

Numbers are little-endian. An append is on the disk when it returns; it counts once a manifest
says so.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from umer1.durable import sync_folder
from umer1.retrieval.manifest import Manifest
from umer1.retrieval.row_format import RowFormat

ITEMS, ENDS, DELETED = "items.jsonl", "items.ends", "deleted"
_INT64 = np.dtype("<i8")


def append(
    directory: Path,
    manifest: Manifest,
    items: Iterable[tuple[str, dict]],
    records: Mapping[str, np.ndarray],
    deleted: Iterable[int],
) -> dict[str, int]:
    """Write items [n], their records [n] per mode and row numbers to delete behind what is there.

    Returns what the next manifest has to say: rows, item_bytes, deleted.
    """
    lines = [_line(identity, entry) for identity, entry in items]
    ends = manifest.item_bytes + np.cumsum([len(line) for line in lines], dtype=_INT64)
    gone = np.array(list(deleted), dtype=_INT64)
    folder = directory / manifest.folder
    folder.mkdir(exist_ok=True)
    for name, content, length in (
        *(
            (f"{mode}.vectors", rows, manifest.rows * rows.itemsize)
            for mode, rows in records.items()
        ),
        (ITEMS, b"".join(lines), manifest.item_bytes),
        (ENDS, ends, manifest.rows * 8),
        (DELETED, gone, manifest.deleted * 8),
    ):
        if len(content):
            _append(folder / name, content, length)
    sync_folder(folder)
    sync_folder(directory)
    return {
        "rows": manifest.rows + len(lines),
        "item_bytes": int(ends[-1]) if lines else manifest.item_bytes,
        "deleted": manifest.deleted + len(gone),
    }


def _line(identity, entry):
    try:
        line = json.dumps({"id": identity, "entry": entry}, ensure_ascii=False, allow_nan=False)
        return line.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"entries: {identity!r} cannot be written as JSON: {error}") from None


def _append(path, content, length):
    with open(path, "ab") as file:
        size = file.seek(0, os.SEEK_END)
        if size < length:
            raise ValueError(f"{path}: has {size} bytes, {length} are needed: the index is damaged")
        # what a killed process left behind what counts
        file.truncate(length)
        file.write(content if isinstance(content, bytes) else content.tobytes())
        file.flush()
        os.fsync(file.fileno())


class Stored:
    """The rows that one manifest counts, mapped for reading; later appends do not change them."""

    def __init__(self, directory: Path, manifest: Manifest):
        """Raises ValueError where files are missing or shorter than the manifest says."""
        self.manifest, self.folder = manifest, directory / manifest.folder
        self.format = RowFormat(manifest.dtype, manifest.dimension)
        rows = manifest.rows
        self.records = {
            mode: self._map(f"{mode}.vectors", self.format.record, rows) for mode in manifest.modes
        }
        self._ends = self._map(ENDS, _INT64, rows)
        self._lines = self._map(ITEMS, np.dtype("u1"), manifest.item_bytes)
        gone = np.array(self._map(DELETED, _INT64, manifest.deleted))
        if len(gone) and (gone.min() < 0 or gone.max() >= rows):
            raise ValueError(f"{self.folder / DELETED}: names rows that are not there")
        self.alive = np.ones(rows, dtype=bool)
        self.alive[gone] = False

    def vectors(self, space: str, rows: np.ndarray | slice) -> np.ndarray:
        """float32 [n, width] of row numbers int64 [n], or of a stretch of rows.

        space: "disc", "gen", or "fused": both, end to end.
        """
        parts = [self.format.decode(self.records[mode][rows]) for mode in self.modes_of(space)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def numbers(self, space: str, rows: np.ndarray | slice) -> np.ndarray:
        """The stored numbers [n, width], in their own type and without their scales."""
        parts = [self.records[mode]["values"][rows] for mode in self.modes_of(space)]
        return np.concatenate(parts, axis=1)

    def modes_of(self, space: str) -> tuple[str, ...]:
        return ("disc", "gen") if space == "fused" else (space,)

    def width(self, space: str) -> int:
        """Numbers of a vector."""
        return self.format.dimension * len(self.modes_of(space))

    @property
    def spaces(self) -> tuple[str, ...]:
        """What can be searched."""
        modes = self.manifest.modes
        return (*modes, "fused") if len(modes) == 2 else modes

    def item(self, row: int) -> tuple[str, dict]:
        """Id and entry of a row."""
        start, end = int(self._ends[row - 1]) if row else 0, int(self._ends[row])
        where = f"{self.folder / ITEMS}: row {row}"
        if not 0 <= start < end <= len(self._lines):
            raise ValueError(f"{where}: is not where {ENDS} says: the index is damaged")
        try:
            content = json.loads(self._lines[start:end].tobytes())
            identity, entry = content["id"], content["entry"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"{where}: not an item: the index is damaged") from None
        if not isinstance(identity, str) or not isinstance(entry, dict):
            raise ValueError(f"{where}: not an item: the index is damaged")
        return identity, entry

    def find(self, identity: str) -> int | None:
        """The row of an id."""
        row = self.row_of.get(identity)
        # the table is shared with what was stored later
        return row if row is not None and row < len(self.alive) and self.alive[row] else None

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Id -> row, of the rows that are not deleted; reads every item."""
        return {self.item(row)[0]: row for row in np.flatnonzero(self.alive).tolist()}

    def _map(self, name, dtype, count):
        if not count:
            return np.empty(0, dtype)
        path = self.folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{path}: is missing: the index is damaged") from None
        if size < count * dtype.itemsize:
            raise ValueError(
                f"{path}: has {size} bytes, {count * dtype.itemsize} are needed: "
                "the index is damaged"
            )
        return np.memmap(path, dtype, mode="r", shape=(count,))
