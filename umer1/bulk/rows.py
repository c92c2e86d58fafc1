"""One row of an input file, a line of JSON or a row of parquet, as (id, item)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from umer1.prompts import ITEM_KEYS, check_text

MEDIA = ("image", "images", "video")
REMOTE = ("http://", "https://", "data:")


def item_of_row(row: Any, where: str, directory: Path) -> tuple[str, dict]:
    """The id and the item of a row: a string (a text), or an object with any of `ITEM_KEYS` and an
    `id`, by default its paths and text, or `where` if it has only pictures as bytes.

    Paths are relative to `directory`. A picture may be an object {"bytes", "path"}, as data sets
    store them; its bytes count if it has both.

    Raises ValueError or TypeError that starts with `where`.
    """
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, dict):
        raise TypeError(f"{where}: got {type(row).__name__}, wants a string or an object")
    unknown = [key for key in row if key not in (*ITEM_KEYS, "id")]
    if unknown:
        raise ValueError(
            f"{where}: unknown key {unknown[0]!r}, wants any of id, {', '.join(ITEM_KEYS)}"
        )
    given = {key: value for key, value in row.items() if value is not None and key != "id"}
    names = [_name(given[key]) for key in (*MEDIA, "text") if given.get(key)]
    if not names:
        raise ValueError(f"{where}: wants at least one of text, {', '.join(MEDIA)}")
    identity = row.get("id")
    if identity is None:
        identity = " ".join(name for name in names if name) or where
    check_text(str(identity), f"{where}, field 'id'")
    media = {key: _medium(given[key], directory) for key in MEDIA if key in given}
    return str(identity), given | media


def _name(value: Any) -> str:
    """What an id can be made of; nothing of bytes."""
    if isinstance(value, dict):
        value = value.get("path") or ""
    return "" if isinstance(value, bytes) else str(value)


def _medium(value: Any, directory: Path) -> Any:
    if isinstance(value, list):
        return [_medium(inner, directory) for inner in value]
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and not value.startswith(REMOTE):
        return str(directory / value)
    return value
