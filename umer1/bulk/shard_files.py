"""The file of one shard: parquet, a row per item, in the items' order.

Columns: number (int64, of the item among all items), id; disc and gen (float32 [d]; gen [k, d] for
k samples); reasoning, summary, finish, tokens (of each sample, as a list, if k > 1); error (why an
item has no vectors, else null). Nothing in a file depends on when, where or by whom it was written:
the same items give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from umer1.parts import replacing

VECTORS = ("disc", "gen")


def write(path: Path, rows: list[dict], schema, about: dict[str, str]) -> None:
    """All of it or nothing, and on the disk when this returns.

    schema: of `table_schema`. about: kept in the footer, see `read_about`.
    """
    import pyarrow
    import pyarrow.parquet

    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    metadata = {f"umer1.{key}": text for key, text in about.items()}
    table = pyarrow.Table.from_arrays(columns, schema=schema.with_metadata(metadata))
    with replacing(path) as file:
        # vectors do not repeat: dictionaries and statistics of them would be all cost
        pyarrow.parquet.write_table(
            table, file, compression="zstd", use_dictionary=False, write_statistics=["number"]
        )


def table_schema(mode: str, samples: int, dimension: int):
    """The pyarrow schema of shards of a run; no column may be left out, all but number and id may
    hold nulls."""
    import pyarrow

    vector = pyarrow.list_(pyarrow.float32(), dimension)

    def per_sample(kind):
        return kind if samples == 1 else pyarrow.list_(kind)

    columns = [("number", pyarrow.int64()), ("id", pyarrow.string())]
    if mode != "gen":
        columns.append(("disc", vector))
    if mode != "disc":
        columns.append(("gen", vector if samples == 1 else pyarrow.list_(vector, samples)))
        columns += [
            (name, per_sample(pyarrow.string())) for name in ("reasoning", "summary", "finish")
        ]
        columns.append(("tokens", per_sample(pyarrow.int32())))
    return pyarrow.schema([*columns, ("error", pyarrow.string())])


def read_about(path: Path) -> dict[str, str] | None:
    """What `write` was given as `about`; None if the file is not there, or is no shard."""
    import pyarrow
    import pyarrow.parquet

    if not os.path.exists(path):
        return None
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
    except (pyarrow.ArrowException, OSError):
        return None
    found = {key.decode(): text.decode() for key, text in metadata.items()}
    return {key[6:]: text for key, text in found.items() if key.startswith("umer1.")}


def read_shards(directory: Path, columns: list[str] | None = None) -> Iterator[dict]:
    """The rows of a finished run in the order of its items, shard by shard; vectors as float32
    arrays, None for items without.

    columns: default all; fewer are not even read.
    """
    import pyarrow.parquet

    for path in sorted(Path(directory).glob("shards/*/*.parquet")):
        table = pyarrow.parquet.read_table(path, columns=columns)
        values = {
            name: _arrays(table[name]) if name in VECTORS else table[name].to_pylist()
            for name in table.column_names
        }
        for row in zip(*values.values(), strict=True):
            yield dict(zip(values, row, strict=True))


def _column(values: list, kind):
    import pyarrow

    if not pyarrow.types.is_fixed_size_list(kind):
        return pyarrow.array(values, kind)
    depth, leaf = [], kind
    while pyarrow.types.is_fixed_size_list(leaf):
        depth.append(leaf.list_size)
        leaf = leaf.value_type
    missing = [value is None for value in values]
    nothing = np.zeros(depth, np.float32)
    stacked = np.array([nothing if value is None else value for value in values], np.float32)
    array = pyarrow.array(stacked.reshape(-1), leaf)
    for size in reversed(depth[1:]):
        array = pyarrow.FixedSizeListArray.from_arrays(array, size)
    mask = pyarrow.array(missing) if any(missing) else None
    return pyarrow.FixedSizeListArray.from_arrays(array, type=kind, mask=mask)


def _arrays(column) -> list:
    """float32 [d] or [k, d] per row; None for null."""
    import pyarrow

    array, depth = column.combine_chunks(), []
    nulls = array.is_null().to_pylist()
    kind = array.type
    while pyarrow.types.is_fixed_size_list(kind):
        depth.append(kind.list_size)
        kind = kind.value_type
    values = array.drop_null()
    for _ in depth:
        values = values.flatten()
    stacked = iter(values.to_numpy(zero_copy_only=False).reshape(-1, *depth))
    return [None if null else next(stacked) for null in nulls]
