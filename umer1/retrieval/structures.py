"""What makes a large index fast: a structure for each of disc, gen and fused that knows candidates.

"auto" has none below HNSW_ROWS rows (exact search answers in tens of milliseconds), a graph above,
and from IVFPQ_ROWS rows on cells with codes, which take a tenth of a graph's memory. A structure
covers the first rows; those that came later are searched exactly until `optimize` takes them in.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from umer1.parts import replacing
from umer1.retrieval.files import Stored
from umer1.retrieval.hnsw import HnswGraph
from umer1.retrieval.ivfpq import LEAST_ROWS, IvfPq
from umer1.retrieval.manifest import Manifest, Structure

HNSW_ROWS, IVFPQ_ROWS = 50_000, 2_000_000
# rows outside of the structure that are not worth a new one
LATER_SHARE = 0.1
KINDS = {"hnsw": HnswGraph, "ivfpq": IvfPq}


def wanted_kind(manifest: Manifest) -> str:
    """flat, hnsw or ivfpq, for so many rows."""
    rows = manifest.rows
    if manifest.kind == "auto":
        return "ivfpq" if rows >= IVFPQ_ROWS else "hnsw" if rows >= HNSW_ROWS else "flat"
    return "flat" if manifest.kind == "ivfpq" and rows < LEAST_ROWS else manifest.kind


def is_due(manifest: Manifest) -> bool:
    """Whether `optimize` has something to build."""
    kind = wanted_kind(manifest)
    if kind == "flat" or not manifest.rows:
        return False
    covered = min((own.rows for own in manifest.structures.values() if own.kind == kind), default=0)
    return manifest.rows - covered > LATER_SHARE * manifest.rows


def build(stored: Stored) -> dict:
    """space -> a structure over all rows, made of the one before if that covers half of them."""
    maker = KINDS[wanted_kind(stored.manifest)]
    structures = {}
    for space in stored.spaces:
        before = stored.manifest.structures.get(space)
        same = before and before.kind == maker.kind and 2 * before.rows >= stored.manifest.rows
        # loaded anew: the one in use may be searched at this moment
        structures[space] = maker.build(stored, space, load(stored, space) if same else None)
    return structures


def write(stored: Stored, structures: dict, commit: int) -> dict[str, Structure]:
    """Files of structures in the folder of the data, on the disk; what the manifest says of them."""
    described = {}
    for space, structure in structures.items():
        name = f"{structure.kind}-{space}-{commit:06d}.numbers"
        checksum = 0
        with replacing(stored.folder / name) as file:
            for array in structure.arrays():
                content = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
                checksum = zlib.crc32(content, checksum)
                file.write(content)
        described[space] = Structure(structure.kind, name, structure.rows, checksum)
    return described


def load(stored: Stored, space: str):
    """The structure that the manifest names, None without; ValueError for a damaged file."""
    described = stored.manifest.structures.get(space)
    if described is None:
        return None
    path = stored.folder / described.file
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise ValueError(f"{path}: is missing: the index is damaged") from None
    if zlib.crc32(content) != described.checksum:
        raise ValueError(f"{path}: its checksum is another: the index is damaged")
    try:
        return KINDS[described.kind].load(content, stored, space, described.rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: the index is damaged") from None


def remove_others(directory: Path, manifest: Manifest) -> None:
    """Delete files of ours that the manifest does not name: what killed processes left."""
    named = {structure.file for structure in manifest.structures.values()}
    for path in (directory / manifest.folder).glob("*.numbers"):
        if path.name not in named:
            path.unlink(missing_ok=True)
    for stray in (directory / manifest.folder).glob(".*.tmp"):
        stray.unlink(missing_ok=True)
