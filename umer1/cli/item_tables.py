"""Items of a Parquet file: a column for each part, such as text and image, and `id` if there is one."""

from pathlib import Path

from umer1.cli.table_media import MediaTable, TableMedium, content_digest, held_bytes, open_table

PARTS = ("text", "image", "images", "video", "instruction")


def table_items(path: Path, resolve) -> list[tuple[str, dict]]:
    """(id, item) of every row.

    Pictures are paths, URLs, bytes, or objects {"bytes", "path"} as data sets store them; those that
    the table holds become `TableMedium`, which read their bytes when they are needed, so that a few
    rows are in memory at a time. Other columns are not read. An id is by default the row's paths and
    text, else file and row number.

    resolve: (key, value, directory) -> value, with paths relative to the file made whole.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path}: tables need pyarrow: pip install 'umer1[search]' (or pyarrow)"
        ) from None
    try:
        with open_table(path) as file:
            names = [name for name in ("id", *PARTS) if name in file.schema_arrow.names]
            if not set(names) & set(PARTS[:-1]):
                raise ValueError(
                    f"{path}: has the columns {', '.join(file.schema_arrow.names)}, needs any of "
                    f"{', '.join(PARTS[:-1])}"
                )
        table = MediaTable(path)
        return [_item(row, table, number, resolve) for number, row in enumerate(table.rows(names))]
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from None


def _item(row, table, number, resolve):
    where = f"{table.path}:{number}"
    given = {key: row[key] for key in PARTS if row.get(key)}
    for key in set(given) & set(PARTS[1:-1]):
        given[key] = _medium(given[key], table, key, number)
    if not set(given) & set(PARTS[:-1]):
        raise ValueError(f"{where}: an item needs at least one of {', '.join(PARTS[:-1])}")
    names = [value for key in PARTS[1:-1] for value in _named(row.get(key))]
    names += [given["text"]] if isinstance(given.get("text"), str) else []
    identity = row.get("id")
    identity = (" ".join(names) or where) if identity is None else str(identity)
    return identity, {key: resolve(key, value, table.path.parent) for key, value in given.items()}


def _medium(value, table, key, number, place=None):
    """Bytes count where a picture has bytes and a path."""
    if isinstance(value, list):
        return [_medium(one, table, key, number, place) for place, one in enumerate(value)]
    if (content := held_bytes(value)) is not None:
        return TableMedium(table, key, number, place, content_digest(content))
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        return value.get("path")
    return value


def _named(value):
    """The paths of a medium; bytes have none."""
    if isinstance(value, list):
        return [name for one in value for name in _named(one)]
    if isinstance(value, dict):
        value = value.get("path")
    return [value] if isinstance(value, str) and value else []
