"""An index for other programs: Parquet, LanceDB, Qdrant.

Rows have the columns id, disc and gen (float32, as many numbers as stored), and of the entry text,
image, video, reasoning, summary; `entry` is all of it as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from umer1.parts import replacing
from umer1.retrieval.vector_index import VectorIndex

FORMS = ("parquet", "lancedb", "qdrant")
TEXTS = ("text", "image", "video", "reasoning", "summary")
BATCH_ROWS = 1024
# ids of Qdrant are numbers or UUIDs: a text's is made of it, the same in every export
NAMESPACE = uuid.UUID("6f0e8a6e-8a0b-5d55-9d0c-0b6c0f2c9b1e")


def export_index(index: VectorIndex, form: str, destination: str, name: str) -> None:
    """Write all items in one of FORMS.

    Args:
        destination: parquet: a file; lancedb: a directory; qdrant: a directory (its local mode), or
            the http(s) address of a server, whose key is in QDRANT_API_KEY if it wants one.
        name: of the table or collection, which must not be there yet.
    """
    if form not in FORMS:
        raise ValueError(f"form: got {form!r}, wants one of {', '.join(FORMS)}")
    if not len(index):
        raise ValueError(f"{index.directory}: holds nothing to export")
    {"parquet": _parquet, "lancedb": _lancedb, "qdrant": _qdrant}[form](index, destination, name)


def point_id(identity: str) -> str:
    """The UUID that an item has in Qdrant."""
    return str(uuid.uuid5(NAMESPACE, identity))


def _parquet(index, destination, name):
    pyarrow = _library("pyarrow", "search")
    from pyarrow import parquet

    schema = _schema(pyarrow, index)
    with (
        replacing(Path(destination)) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for batch in _record_batches(pyarrow, schema, index):
            writer.write_batch(batch)


def _lancedb(index, destination, name):
    pyarrow, lancedb = _library("pyarrow", "search"), _library("lancedb", "export")
    schema = _schema(pyarrow, index)
    table = Path(destination) / f"{name}.lance"
    if table.exists():
        raise ValueError(f"{table}: is there already; give another --name or delete it")
    try:
        lancedb.connect(destination).create_table(
            name, _record_batches(pyarrow, schema, index), schema=schema
        )
    except BaseException:
        shutil.rmtree(table, ignore_errors=True)
        raise


def _qdrant(index, destination, name):
    qdrant = _library("qdrant_client", "export")
    from qdrant_client import models

    if destination.startswith(("http://", "https://")):
        client = qdrant.QdrantClient(
            url=destination, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False
        )
    else:
        client = qdrant.QdrantClient(path=destination)
    try:
        if client.collection_exists(name):
            raise ValueError(
                f"{destination}: has a collection {name!r} already; give another --name or delete it"
            )
        try:
            _upload(client, models, index, name)
        except BaseException:
            client.delete_collection(name)
            raise
    finally:
        client.close()


def _upload(client, models, index, name):
    # rows have unit length: cosine and inner product are the same
    size = models.VectorParams(size=index.dimension, distance=models.Distance.COSINE)
    client.create_collection(name, vectors_config=dict.fromkeys(index.modes, size))
    for items, vectors in _batches(index):
        points = [
            models.PointStruct(
                id=point_id(identity),
                vector={mode: vectors[mode][place].tolist() for mode in index.modes},
                payload={**entry, "id": identity, "model": index.model},
            )
            for place, (identity, entry) in enumerate(items)
        ]
        client.upsert(name, points, wait=True)


def _batches(index) -> Iterator[tuple[list[tuple[str, dict]], dict]]:
    """(ids and entries, mode -> float32 [b, d])."""
    numbers, items = [], []
    for number, identity, entry in index.items():
        numbers.append(number)
        items.append((identity, entry))
        if len(items) == BATCH_ROWS:
            yield items, {mode: index.vectors(mode, numbers) for mode in index.modes}
            numbers, items = [], []
    if items:
        yield items, {mode: index.vectors(mode, numbers) for mode in index.modes}


def _schema(pyarrow, index):
    vector = pyarrow.list_(pyarrow.float32(), index.dimension)
    columns = [("id", pyarrow.string()), *((mode, vector) for mode in index.modes)]
    columns += [(name, pyarrow.string()) for name in (*TEXTS, "entry")]
    about = {"model": index.model, "readout": index.manifest.readout}
    if index.manifest.instruction:
        about["instruction"] = index.manifest.instruction
    return pyarrow.schema(columns, metadata=about)


def _record_batches(pyarrow, schema, index):
    for items, vectors in _batches(index):
        columns = {"id": [identity for identity, _ in items]}
        for mode, rows in vectors.items():
            flat = pyarrow.array(rows.reshape(-1))
            columns[mode] = pyarrow.FixedSizeListArray.from_arrays(flat, index.dimension)
        for name in TEXTS:
            columns[name] = [_text(entry.get(name)) for _, entry in items]
        columns["entry"] = [json.dumps(entry, ensure_ascii=False) for _, entry in items]
        yield pyarrow.record_batch(columns, schema=schema)


def _text(value):
    return value if isinstance(value, str) else None


def _library(name, extra):
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"this form needs {name.replace('_', '-')}: pip install 'umer1[{extra}]'"
        ) from None
