"""Embeddings as files: .npz (arrays, no pickles) and .jsonl (an object per item), whole or in parts.

A row is a dict: the item's id, what the model wrote for it if it did (TEXTS), and its vectors as
float32 arrays (VECTORS): [d], or [k, d] for k samples of gen.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from umer1.parts import replacing

VECTORS = ("disc", "gen")
TEXTS = ("reasoning", "summary", "finish", "tokens")


def check_output(path: Path) -> None:
    """Refuse an output name before any work is done for it."""
    if path.suffix not in (".npz", ".jsonl", ""):
        raise ValueError(
            f"--output {path}: need a name that ends in .npz or .jsonl, or a directory's"
        )
    if path.suffix and path.is_dir() or not path.suffix and path.is_file():
        raise ValueError(f"--output {path}: is there and is a {_kind(path)}")


def to_rows(ids: list[str], result) -> list[dict]:
    """The rows of an Embeddings."""
    names = [name for name in TEXTS if getattr(result, name)]
    names += [name for name in VECTORS if getattr(result, name) is not None]
    return [
        {"id": identity} | {name: getattr(result, name)[number] for name in names}
        for number, identity in enumerate(ids)
    ]


def to_json(row: dict, *, vectors: bool) -> dict:
    """A row as JSON can hold it, without its vectors if they are not wanted."""
    return {
        name: value.tolist() if name in VECTORS else value
        for name, value in row.items()
        if vectors or name not in VECTORS
    }


def write(path: Path, rows: list[dict], about: dict[str, str]) -> None:
    """Write a file by its ending: all of it or nothing, and on the disk when this returns.

    about: model, readout: kept in .npz.
    """
    import numpy as np

    with replacing(path) as file:
        if path.suffix == ".jsonl":
            for row in rows:
                line = json.dumps(to_json(row, vectors=True), ensure_ascii=False)
                file.write(line.encode() + b"\n")
            return
        arrays = {name: np.array(value) for name, value in about.items()}
        arrays["ids"] = np.array([row["id"] for row in rows])
        for name in rows[0] if rows else ():
            if name != "id":
                arrays[name] = np.array([row[name] for row in rows])
        np.savez(file, **arrays)


def read(path: Path, *, vectors: bool) -> Iterator[dict]:
    """The rows of a file, in its order; without vectors they are not even read from .npz."""
    import numpy as np

    if path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield {
                    name: np.array(value, np.float32) if name in VECTORS else value
                    for name, value in row.items()
                    if vectors or name not in VECTORS
                }
        return
    names = (*TEXTS, *VECTORS) if vectors else TEXTS
    with np.load(path, allow_pickle=False) as file:
        ids = file["ids"].tolist()
        columns = {name: file[name] for name in names if name in file.files}
    for name in TEXTS:
        if name in columns:
            columns[name] = columns[name].tolist()
    for number, identity in enumerate(ids):
        yield {"id": identity} | {name: column[number] for name, column in columns.items()}


def merge(parts: list[Path], ids: list[str], path: Path, about: dict[str, str]) -> None:
    """Write the rows of several files of `path`'s kind as one, in the order of `ids`."""
    if path.suffix == ".jsonl":
        _merge_lines(parts, ids, path)
        return
    rows = {row["id"]: row for part in parts for row in read(part, vectors=True)}
    write(path, [rows[identity] for identity in ids], about)


def _merge_lines(parts: list[Path], ids: list[str], path: Path) -> None:
    """By their places in the parts: all lines together may be larger than memory."""
    places = {}
    for part in parts:
        with open(part, "rb") as lines:
            start = 0
            for line in lines:
                places[json.loads(line)["id"]] = (part, start)
                start += len(line)
    files = {part: open(part, "rb") for part in parts}  # noqa: SIM115
    try:
        with replacing(path) as target:
            for identity in ids:
                part, start = places[identity]
                files[part].seek(start)
                target.write(files[part].readline())
    finally:
        for file in files.values():
            file.close()


def _kind(path: Path) -> str:
    return "directory" if path.is_dir() else "file"
