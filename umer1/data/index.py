"""Where every record of a data file stands, found once and kept.

    index = FileIndex.open("UME-R1-SFT.json")      # scans the file the first time
    row = index.read(1_000_000)                    # one read of the record's own bytes

The index is two small files in `.umer1-index` beside the data, or below `$XDG_CACHE_HOME/umer1`
where that place is not writable. Their name holds the data file's path, size, time of change and
the format version, so that an index of another state of the file is never used.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from umer1.data.cache import (
    cache_folders,
    cache_name,
    locked,
    writable_folder,
    write_whole,
)
from umer1.data.estimates import Counts, TokenRates, counted
from umer1.data.scan import RecordError, parse, scan
from umer1.progress import progress_bar

VERSION = 2
RECORD = np.dtype(
    [("offset", "<i8"), ("length", "<i8"), ("source", "<i4")]
    + [(name, "<i4") for name in Counts._fields]
)
LARGEST = np.iinfo("<i4").max
SHOWN_FROM = 256 << 20  # bytes of a file whose indexing gets a progress bar


class FileIndex:
    """The records of one JSON or JSONL file.

    Attributes:
        path: the data file, absolute.
        records: RECORD [N], mapped from the stored index.
        sources: names that `records["source"]` counts; "" where a record names none.
    """

    def __init__(self, path: Path, records: np.ndarray, sources: list[str], stored: Path | None):
        self.path, self.records, self.sources = path, records, sources
        self._stored = stored
        self._file: int | None = None

    @classmethod
    def open(cls, path: str | Path, *, progress: bool = True) -> FileIndex:
        """The stored index of `path` if it is of this very state of the file, else a new one.

        Processes that open the same file at once wait for the first one's index.
        Raises RecordError as `scan` does.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise RecordError(f"{path}: no such file")
        key = cache_name(path, VERSION)
        for folder in cache_folders(path):
            if found := _load(path, folder / key):
                return found
        folder = writable_folder(path)
        if folder is None:
            return cls(path, *_build(path, progress), None)
        with locked(folder):
            if found := _load(path, folder / key):
                return found
            records, sources = _build(path, progress)
            _store(path, folder / key, records, sources)
        return _load(path, folder / key) or cls(path, records, sources, None)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, number: int) -> dict[str, Any]:
        """The record with this number."""
        offset, length = (int(self.records[name][number]) for name in ("offset", "length"))
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        return parse(os.pread(self._file, length, offset), self.path, offset)

    def tokens(self, rates: TokenRates) -> np.ndarray:
        """int32 [N], estimated."""
        return rates.tokens(Counts(*(self.records[name] for name in Counts._fields)))

    def where(self, number: int) -> str:
        return f"{self.path}: record {number}"

    def __getstate__(self):
        # a worker maps the same file instead of being sent the array
        state = dict(self.__dict__, _file=None)
        return state | {"records": None} if self._stored else state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self._stored:
            self.records = np.load(self._stored, mmap_mode="r")

    def __del__(self):
        if getattr(self, "_file", None) is not None:
            os.close(self._file)


def _build(path: Path, progress: bool) -> tuple[np.ndarray, list[str]]:
    offsets, lengths, sources = array("q"), array("q"), array("i")
    counts = Counts(*(array("i") for _ in Counts._fields))
    numbers: dict[str, int] = {}
    size = path.stat().st_size
    with progress_bar(
        f"index {path.name}", size >> 20, unit="MiB", show=progress and size >= SHOWN_FROM
    ) as bar:
        shown = 0
        for offset, length, row in scan(path):
            name = row.get("dataset_name") or row.get("dataset")
            name = name if isinstance(name, str) else ""  # what is wrong is said when it is read
            offsets.append(offset)
            lengths.append(length)
            sources.append(numbers.setdefault(name, len(numbers)))
            for column, count in zip(counts, counted(row), strict=True):
                column.append(min(count, LARGEST))
            if (offset >> 20) - shown >= 16:
                bar.advance((offset >> 20) - shown, records=len(offsets))
                shown = offset >> 20
        bar.advance((size >> 20) - shown, records=len(offsets))
    if not offsets:
        raise RecordError(f"{path}: has no records")
    records = np.empty(len(offsets), RECORD)
    for name, column in zip(RECORD.names, (offsets, lengths, sources, *counts), strict=True):
        records[name] = column
    return records, list(numbers)


def _load(path: Path, base: Path) -> FileIndex | None:
    table, names = base.with_name(base.name + ".npy"), base.with_name(base.name + ".json")
    try:
        sources = json.loads(names.read_text(encoding="utf-8"))["sources"]
        return FileIndex(path, np.load(table, mmap_mode="r"), sources, table)
    except (OSError, ValueError, KeyError):  # absent, or another process is removing it
        return None


def _store(path: Path, base: Path, records: np.ndarray, sources: list[str]) -> None:
    """The table first: an index counts from the moment its names are there."""
    folder = base.parent
    with contextlib.suppress(OSError):
        for old in folder.glob(f"{path.name}-????????????????.*"):
            told = json.loads(old.read_text(encoding="utf-8")) if old.suffix == ".json" else {}
            if told.get("path") == os.fspath(path):
                old.unlink()
                old.with_name(old.name.removesuffix(".json") + ".npy").unlink(missing_ok=True)
    write_whole(base.with_name(base.name + ".npy"), lambda file: np.save(file, records))
    told = {"path": os.fspath(path), "records": len(records), "sources": sources}
    content = json.dumps(told, ensure_ascii=False).encode()
    write_whole(base.with_name(base.name + ".json"), lambda file: file.write(content))
