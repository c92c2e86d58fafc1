"""Input files cut into shards: contiguous rows of one file, the same ones whoever asks.

A .jsonl file is cut at lines (empty ones do not count), a .parquet file at rows. Items are numbered
over all files in the order given; a number is an item's name, and the place of its seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umer1.parts import replacing
from umer1.prompts import ITEM_KEYS

SUFFIXES = (".jsonl", ".parquet")
MEDIA = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v"),
}


@dataclass(frozen=True, slots=True)
class Shard:
    """`items` rows of a file. `start`: byte offset (.jsonl) or row (.parquet) of the first one;
    `line`: its line in a .jsonl file, from 1; `first`: its number among all items."""

    number: int
    path: str
    start: int
    line: int
    first: int
    items: int

    @property
    def about(self) -> str:
        """For messages."""
        return f"{self.path}, items {self.first} to {self.first + self.items - 1} of the run"


@dataclass(frozen=True, slots=True)
class Scan:
    """A file as found: `pieces`: (start, line, items) of its shards; `digest`: of its content
    (.jsonl) or of its footer, which holds sizes and places of everything (.parquet)."""

    path: str
    items: int
    digest: str
    pieces: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Media:
    """A directory without tables: its pictures and videos, at any depth."""

    directory: Path
    paths: tuple[Path, ...]


def find_sources(sources: list[Path], output: Path) -> list[Path | Media]:
    """Input files, absolute. A directory stands for the .jsonl and .parquet files below it, or,
    without any, for its pictures and videos; hidden ones and the `output` directory are left out.

    Raises ValueError for what is no such file or directory.
    """
    found = []
    for source in sources:
        source = Path(source).absolute()
        if source.is_dir():
            if source.resolve() == Path(output).resolve():
                raise ValueError(f"{source}: is where the results go: give another output")
            below = sorted(_below(source, Path(output).resolve()))
            tables = [path for path in below if path.suffix in SUFFIXES and path.is_file()]
            media = tuple(path for path in below if _kind(path))
            if not tables and not media:
                raise ValueError(f"{source}: no .jsonl or .parquet file, picture or video below it")
            found += tables or [Media(source, media)]
        elif source.suffix in SUFFIXES and source.is_file():
            found.append(source)
        else:
            kind = "a file of another kind" if source.exists() else "nothing"
            raise ValueError(
                f"{source}: is {kind}, wants a .jsonl or .parquet file or a directory of those "
                "or of pictures and videos"
            )
    if not found:
        raise ValueError("nothing to embed: wants .jsonl or .parquet files or directories")
    return found


def as_file(source: Path | Media, lists: Path) -> Path:
    """The file itself, or a .jsonl list of the media, written into `lists`."""
    if isinstance(source, Path):
        return source
    name = hashlib.sha256(os.fsencode(source.directory)).hexdigest()[:16]
    with replacing(lists / f"{name}.jsonl") as file:
        for path in source.paths:
            row = {"id": str(path), _kind(path): str(path)}
            file.write(json.dumps(row).encode() + b"\n")
    return lists / f"{name}.jsonl"


def scan(path: Path, shard_items: int) -> Scan:
    """Read a file once and say where its shards begin."""
    if path.suffix == ".parquet":
        return _scan_parquet(path, shard_items)
    digest, pieces, offset = hashlib.sha256(), [], 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            digest.update(line)
            if not line.isspace():
                if not pieces or pieces[-1][2] == shard_items:
                    pieces.append((offset, number, 0))
                start, first, items = pieces[-1]
                pieces[-1] = (start, first, items + 1)
            offset += len(line)
    items = sum(piece[2] for piece in pieces)
    return Scan(str(path), items, digest.hexdigest(), tuple(pieces))


def shards(scans: list[Scan]) -> list[Shard]:
    """All shards, numbered."""
    found, first = [], 0
    for each in scans:
        for start, line, items in each.pieces:
            found.append(Shard(len(found), each.path, start, line, first, items))
            first += items
    return found


def rows(shard: Shard) -> Iterator[tuple[str, Any]]:
    """(where, row) of a shard; a line that is not JSON comes as the error itself."""
    if shard.path.endswith(".parquet"):
        yield from _parquet_rows(shard)
        return
    left, number = shard.items, shard.line
    with open(shard.path, "rb") as lines:
        lines.seek(shard.start)
        while left:
            line = lines.readline()
            if not line:
                raise ValueError(f"{shard.path}: ends at line {number}: changed while in use")
            if not line.isspace():
                left -= 1
                yield f"{shard.path}:{number}", _parse(line)
            number += 1


def _below(directory: Path, output: Path) -> Iterator[Path]:
    """Files at any depth, as `find_sources` says; links to directories are not followed."""
    real = directory.resolve()
    for folder, folders, names in os.walk(directory):
        within = real / Path(folder).relative_to(directory)
        folders[:] = [
            name for name in folders if not name.startswith(".") and within / name != output
        ]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _kind(path: Path) -> str | None:
    """ "image", "video", or neither."""
    suffix = path.suffix.lower()
    return next((kind for kind, known in MEDIA.items() if suffix in known), None)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:  # bytes that are no UTF-8 among them
        return ValueError(f"not JSON ({getattr(error, 'msg', error)})")
    except RecursionError:
        return ValueError("not JSON that can be read (nested too deeply)")


def _scan_parquet(path: Path, shard_items: int) -> Scan:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            total, columns = file.metadata.num_rows, file.schema_arrow.names
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a parquet file: {error}") from None
    if not set(columns) & (set(ITEM_KEYS) - {"instruction"}):
        raise ValueError(
            f"{path}: has the columns {', '.join(columns)}, wants any of {', '.join(ITEM_KEYS)}"
        )
    with open(path, "rb") as file:
        # the last 8 bytes: the footer's length, and the name of the format
        size = file.seek(-8, 2) + 8
        footer = int.from_bytes(file.read(4), "little")
        file.seek(-8 - footer, 2)
        digest = hashlib.sha256(f"{size} ".encode() + file.read()).hexdigest()
    starts = range(0, total, shard_items)
    pieces = tuple((start, 0, min(shard_items, total - start)) for start in starts)
    return Scan(str(path), total, digest, pieces)


def _parquet_rows(shard: Shard) -> Iterator[tuple[str, Any]]:
    """Only the row groups that hold rows of the shard are read."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(shard.path) as file:
        names = [name for name in ("id", *ITEM_KEYS) if name in file.schema_arrow.names]
        begin, stop = 0, shard.start + shard.items
        for group in range(file.metadata.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if begin < stop and end > shard.start:
                table = file.read_row_group(group, columns=names)
                low = max(shard.start - begin, 0)
                for place, row in enumerate(
                    table.slice(low, min(end, stop) - begin - low).to_pylist()
                ):
                    yield f"{shard.path}, row {begin + low + place}", row
            begin = end
