"""Pictures and clips that a Parquet file holds itself, read when they are needed, some rows at a time."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

# rows in memory at a time, and bytes of a file read at once: a row group may hold the whole table.
# What is read whole is a page, as the table's writer made it: with pyarrow at most 1024 rows.
BATCH_ROWS, BUFFER_BYTES = 16, 1 << 20


@dataclass(frozen=True, slots=True)
class TableMedium:
    """One picture or clip. place: in the cell's list, None where the cell is the medium."""

    table: "MediaTable" = field(compare=False, repr=False)
    column: str
    row: int
    place: int | None
    digest: str

    def read_bytes(self) -> bytes:
        """The file. Raises ValueError if the table has changed since it was opened."""
        value = self.table.cell(self.column, self.row)
        content = held_bytes(value if self.place is None else value[self.place])
        if content is None or content_digest(content) != self.digest:
            raise ValueError(f"{self.table.path}: row {self.row}: changed while in use")
        return content

    def __str__(self) -> str:
        return f"{self.column} of row {self.row}, {self.digest}"


class MediaTable:
    """Cells of a Parquet file: cheap in the order of the rows. May be read from any thread."""

    def __init__(self, path: Path):
        self.path = path
        self._lock, self._file = threading.Lock(), None
        self._place, self._first, self._batch = None, 0, ()

    def rows(self, names: list[str]) -> Iterator[dict]:
        """Every row, of these columns."""
        with open_table(self.path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                yield from batch.to_pylist()

    def cell(self, column: str, row: int):
        """The value of a column in a row."""
        with self._lock:
            self._seek(column, row)
            return self._batch.column(0)[row - self._first].as_py()

    def _seek(self, column, row):
        """To the batch that holds a row: forward within its row group, else from the group's start."""
        if self._file is None:
            self._file = open_table(self.path)
            groups = range(self._file.num_row_groups)
            counts = [self._file.metadata.row_group(group).num_rows for group in groups]
            self._starts = np.cumsum([0, *counts])
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if (group, column) != self._place or row < self._first:
            self._place, self._first, self._batch = (group, column), int(self._starts[group]), ()
            options = {"columns": [column], "row_groups": [group], "use_threads": False}
            self._batches = self._file.iter_batches(BATCH_ROWS, **options)
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            self._batch = next(self._batches)


def open_table(path: Path):
    """A pyarrow ParquetFile that reads pages as they come, not whole columns."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)


def held_bytes(value) -> bytes | None:
    """The bytes of a medium as data sets store it: plain, or {"bytes", "path"}."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) and value else None


def content_digest(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()
