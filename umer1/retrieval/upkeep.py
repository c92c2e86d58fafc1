"""What keeps an index small and fast: deleted rows leave, structures take in what came later."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from umer1.retrieval import structures
from umer1.retrieval.files import Stored, append
from umer1.retrieval.manifest import Manifest

# of all rows, deleted ones that are worth writing the others anew
DELETED_SHARE = 0.25
BLOCK_ROWS = 1 << 14


def optimized(directory: Path, stored: Stored) -> Manifest:
    """The manifest after upkeep; the one before if there is nothing to do. Files of what is no
    longer named are deleted after it is written (`clear`)."""
    manifest = stored.manifest
    if (~stored.alive).sum() > DELETED_SHARE * manifest.rows:
        manifest = _compacted(directory, stored)
        stored = Stored(directory, manifest)
    if structures.is_due(manifest):
        described = structures.write(stored, structures.build(stored), manifest.commit)
        manifest = replace(manifest, structures=described, commit=manifest.commit + 1)
    return manifest


def clear(directory: Path, manifest: Manifest) -> None:
    """Delete what the manifest does not name: data of before, and what killed processes left."""
    for folder in directory.glob("data-*"):
        if folder.name != manifest.folder:
            shutil.rmtree(folder, ignore_errors=True)
    structures.remove_others(directory, manifest)


def _compacted(directory, stored):
    """The rows that are not deleted, in a folder of their own."""
    before = stored.manifest
    number = int(before.folder.removeprefix("data-")) % 999_999 + 1
    manifest = replace(
        before,
        folder=f"data-{number:06d}",
        rows=0,
        item_bytes=0,
        deleted=0,
        structures={},
        commit=before.commit + 1,
    )
    shutil.rmtree(directory / manifest.folder, ignore_errors=True)
    alive = np.flatnonzero(stored.alive)
    for start in range(0, len(alive), BLOCK_ROWS):
        rows = alive[start : start + BLOCK_ROWS]
        records = {mode: np.array(own[rows]) for mode, own in stored.records.items()}
        items = [stored.item(row) for row in rows.tolist()]
        manifest = replace(manifest, **append(directory, manifest, items, records, []))
    return manifest
