"""Rows of a Parquet or Arrow file by number.

A table of text alone is rewritten once as an Arrow file (kept like an index), any row of which can
be read without its neighbours. One that holds pictures stays as it is: Arrow is mapped, Parquet is
read a row group at a time, the last few of which, of all files together, are kept.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from umer1.data.cache import cache_folders, cache_name, locked, writable_folder, write_whole
from umer1.data.estimates import Counts, TokenRates
from umer1.data.scan import RecordError

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
# row groups that a process keeps, of all its files; the one just read is kept however large
KEPT_GROUPS, KEPT_BYTES = 8, 256 << 20
BATCH_ROWS = 1024  # of a rewritten table


class TableRows:
    """Columns of text and of pictures (structs of bytes and path) of a .parquet or .arrow file.

    Raises RecordError if the file cannot be read or lacks a column.
    """

    def __init__(self, path: str | Path, text: list[str], pictures: list[str]):
        self.path, self.text, self.pictures = Path(path).absolute(), text, pictures
        if not self.path.is_file():
            raise RecordError(f"{self.path}: no such file")
        missing = [name for name in (*text, *pictures) if name not in self._source.names]
        if missing:
            raise RecordError(
                f"{self.path}: has no column {missing[0]!r}; it has {self._source.names}"
            )

    def __len__(self) -> int:
        return self._source.rows

    def read(self, number: int) -> dict[str, Any]:
        return self._source.row(number)

    def where(self, number: int) -> str:
        return f"{self.path}: row {number}"

    def tokens(self, rates: TokenRates) -> np.ndarray:
        """int32 [N]; estimated tokens of both sides together."""
        text, images = self._counts
        return rates.tokens(Counts(-1, text, images, 0, 0))

    @cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of text and pictures of each row. Reads the text alone."""
        import pyarrow.compute as compute

        text = np.zeros(len(self), np.int64)
        images = np.full(len(self), len(self.pictures), np.int64)
        for name, column in self._source.columns(self.text):
            size = compute.fill_null(compute.binary_length(column), 0).to_numpy()
            if "image" in name:  # the path of a picture counts as the picture
                images += size > 0
            else:
                text += size
        return text, images

    def __getstate__(self):
        return {"path": self.path, "text": self.text, "pictures": self.pictures}

    def __setstate__(self, state):
        self.__dict__.update(state)

    @cached_property
    def _source(self) -> _Arrow | _Parquet:
        try:
            import pyarrow
        except ImportError:
            raise RecordError(f"{self.path}: tables need pyarrow (pip install pyarrow)") from None
        wanted = [*self.text, *self.pictures]
        try:
            if self.path.suffix == ".arrow":
                return _Arrow(self.path, wanted)
            parquet = _Parquet(self.path, wanted)
            return parquet if self.pictures else _Arrow(_rewritten(self.path, parquet), wanted)
        except (pyarrow.ArrowException, OSError) as error:
            raise RecordError(f"{self.path}: not a readable table: {error}") from None


class _RowGroups:
    """Those read last, within KEPT_GROUPS and KEPT_BYTES. One thread reads at a time: pyarrow's files want that."""

    def __init__(self):
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[int, int], pyarrow.Table] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[int, int], read: Callable[[], pyarrow.Table]) -> pyarrow.Table:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
            table = read()
            self._tables[key] = table
            self._bytes += table.nbytes
            while len(self._tables) > 1 and (
                len(self._tables) > KEPT_GROUPS or self._bytes > KEPT_BYTES
            ):
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
            return table


_GROUPS, _SERIAL = _RowGroups(), itertools.count()  # a serial tells open files apart


class _Parquet:
    def __init__(self, path: Path, wanted: list[str]):
        import pyarrow.parquet

        self.file = pyarrow.parquet.ParquetFile(path)
        self.names = self.file.schema_arrow.names
        self.wanted = [name for name in wanted if name in self.names]
        groups = range(self.file.num_row_groups)
        counts = [self.file.metadata.row_group(group).num_rows for group in groups]
        self.starts = np.cumsum([0, *counts])
        self.rows = int(self.starts[-1])
        self._serial = next(_SERIAL)

    def row(self, number: int) -> dict[str, Any]:
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        table = _GROUPS.get(
            (self._serial, group), lambda: self.file.read_row_group(group, columns=self.wanted)
        )
        return table.slice(number - int(self.starts[group]), 1).to_pylist()[0]

    def columns(self, names: list[str]):
        table = self.file.read(names)
        return zip(names, (table[name] for name in names), strict=True)


class _Arrow:
    """A memory-mapped Arrow file, or a stream as `datasets` writes it."""

    def __init__(self, path: Path, wanted: list[str]):
        import pyarrow

        source = pyarrow.memory_map(str(path))
        try:
            table = pyarrow.ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_stream(source).read_all()
        self.names, self.rows = table.schema.names, len(table)
        self.table = table.select([name for name in wanted if name in self.names])

    def row(self, number: int) -> dict[str, Any]:
        return self.table.slice(number, 1).to_pylist()[0]

    def columns(self, names: list[str]):
        return zip(names, (self.table[name] for name in names), strict=True)


def _rewritten(path: Path, parquet: _Parquet) -> Path:
    """The wanted columns as an Arrow file."""
    import pyarrow

    name = f"{cache_name(path, VERSION)}-{'-'.join(parquet.wanted)}.arrow"
    for folder in cache_folders(path):
        if (folder / name).is_file():
            return folder / name
    folder = writable_folder(path)
    if folder is None:
        raise RecordError(f"{path}: no place for its rows: neither beside it nor in ~/.cache")

    def write(file):
        schema = parquet.file.schema_arrow
        wanted = pyarrow.schema([schema.field(column) for column in parquet.wanted])
        with pyarrow.ipc.new_file(file, wanted) as out:
            for batch in parquet.file.iter_batches(BATCH_ROWS, columns=parquet.wanted):
                out.write_batch(batch.select(parquet.wanted))

    with locked(folder):
        if not (folder / name).is_file():
            write_whole(folder / name, write)
    return folder / name
