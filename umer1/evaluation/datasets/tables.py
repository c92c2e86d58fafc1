"""Tables of a benchmark: Parquet, Arrow, JSON and JSON lines to rows, pictures left where they are.

rows = read_table([Path("VATEX/data/test-00000-of-00001.parquet")])
for name, picture in read_pictures(files, "corpus-id", "image"): ...
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
PICTURE_ROWS = 16  # rows of a table of pictures that are in memory together


def read_table(files: Sequence[Path]) -> list[dict]:
    """Rows of a table's files, in order, without columns of bytes.

    Equal strings inside lists are one object: MMEB repeats the same few thousand candidates in a
    million places.

    Raises ValueError or TypeError naming the file (and line) that cannot be read, or a table
    without rows.
    """
    rows = []
    for path in files:
        if path.suffix in (".parquet", ".arrow"):
            rows += _arrow_rows(path)
        else:
            rows += read_jsonl(path) if path.suffix == ".jsonl" else _json_rows(path)
    if not rows:
        raise ValueError(f"{', '.join(map(str, files))}: no rows")
    return rows


def read_jsonl(path: Path) -> list[dict]:
    """Objects of a JSON-lines file; a bad line is one error with file and line number."""
    with open(path, encoding="utf-8") as lines:
        return list(_objects(path, lines))


def read_pictures(files: Sequence[Path], name: str, picture: str) -> Iterator[tuple]:
    """(value of column `name`, encoded picture or None) of every row, a few rows at a time."""
    for path in files:
        for batch in _batches(path, [name, picture]):
            for key, stored in zip(batch[name].to_pylist(), batch[picture].to_pylist()):
                # `datasets` keeps a picture as {"bytes", "path"}
                yield key, stored.get("bytes") if isinstance(stored, dict) else stored


def natural_key(name: str) -> list:
    """Sort key under which numbers inside names order by value, and case does not count."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def _json_rows(path):
    text = path.read_text(encoding="utf-8")
    if not text.lstrip().startswith("["):
        return list(_objects(path, text.split("\n")))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise TypeError(f"{path}, row {number}: got {type(row).__name__}, need an object")
    return rows


def _objects(path: Path, lines: Iterable[str]) -> Iterator[dict]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise TypeError(f"{path}:{number}: got {type(row).__name__}, need an object")
        yield row


def _arrow_rows(path):
    table = _open(path)
    names = [field.name for field in table.schema if not _has_bytes(field.type)]
    columns = [_values(table[name]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _open(path):
    """The columns without bytes of a Parquet file, or an Arrow file mapped into memory."""
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            fields = [field.name for field in file.schema_arrow if not _has_bytes(field.type)]
            return file.read(columns=fields)
        return _arrow_reader(path).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable table ({error})") from None


def _arrow_reader(path):
    """`datasets` writes streams; others write files that end with an index."""
    import pyarrow

    source = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_file(source)
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_stream(source)


def _batches(path, columns):
    import pyarrow
    import pyarrow.parquet

    if path.suffix not in (".parquet", ".arrow"):
        raise ValueError(f"{path}: holds no pictures; they are in Parquet or Arrow tables")
    try:
        if path.suffix == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise ValueError(f"{path}: no column {missing[0]!r}")
            yield from file.iter_batches(PICTURE_ROWS, columns=columns)
        else:
            table = _arrow_reader(path).read_all()
            if missing := [name for name in columns if name not in table.schema.names]:
                raise ValueError(f"{path}: no column {missing[0]!r}")
            yield from table.select(columns).to_batches(max_chunksize=PICTURE_ROWS)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable table ({error})") from None


def _has_bytes(kind) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(_has_bytes(kind.field(place).type) for place in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind):
        return _has_bytes(kind.value_type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _values(column) -> list:
    from pyarrow import types

    kind = column.type
    lists = types.is_list(kind) or types.is_large_list(kind)
    if lists and (types.is_string(kind.value_type) or types.is_large_string(kind.value_type)):
        return [row for chunk in column.chunks for row in _shared_strings(chunk)]
    return column.to_pylist()


def _shared_strings(lists) -> Iterator[list | None]:
    encoded = lists.flatten().dictionary_encode(null_encoding="encode")
    words = np.empty(len(encoded.dictionary), dtype=object)
    words[:] = encoded.dictionary.to_pylist()
    values = words[encoded.indices.to_numpy(zero_copy_only=False)]
    start = 0
    for size in lists.value_lengths().to_pylist():
        yield None if size is None else values[start : start + size].tolist()
        start += size or 0
