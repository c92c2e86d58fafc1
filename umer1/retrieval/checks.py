"""Arguments of an index, checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from umer1.identities import first_twice
from umer1.retrieval.manifest import Manifest
from umer1.retrieval.shorten import shortened

# what unit length may be off: vectors may come from float16 files
LENGTH_ERROR = 1e-2


def checked_ids(ids: Sequence[str]) -> list[str]:
    """A list of distinct, non-empty texts."""
    if isinstance(ids, str):
        raise ValueError(f"ids: got one text {ids!r}, wants a list of them")
    ids = list(ids)
    for place, identity in enumerate(ids):
        if not isinstance(identity, str) or not identity:
            raise ValueError(f"ids: number {place} is {identity!r}, wants a text")
    if (twice := first_twice(ids)) is not None:
        raise ValueError(f"ids: {twice!r} is there twice")
    return ids


def entries_or_empty(entries: Sequence[dict] | None, count: int) -> list[dict]:
    entries = [{}] * count if entries is None else list(entries)
    if len(entries) != count:
        raise ValueError(f"entries: got {len(entries)} for {count} ids")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"entries: number {place} is {type(entry).__name__}, wants a dict")
    return entries


def checked_vectors(
    given: Mapping[str, np.ndarray],
    manifest: Manifest,
    name: str,
    *,
    rows: int | None = None,
    every_mode: bool = False,
) -> dict[str, np.ndarray]:
    """mode -> float32 [rows, manifest.dimension], unit rows.

    Modes that the index does not hold are left out of `vectors` by error, and kept in queries: they
    may search the other mode's items.
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{name}: got {type(given).__name__}, wants arrays by mode (disc, gen)")
    for mode in given:
        if mode not in (manifest.modes if every_mode else ("disc", "gen")):
            raise ValueError(
                f"{name}: got {mode!r}, the index holds {' and '.join(manifest.modes)}"
            )
    if every_mode and (missing := [mode for mode in manifest.modes if mode not in given]):
        raise ValueError(f"{name}: {missing[0]} is missing, the index holds it")
    checked = {
        mode: _checked(np.asarray(array), manifest, f"{name}: {mode}", rows)
        for mode, array in given.items()
    }
    if len({len(array) for array in checked.values()}) > 1:
        raise ValueError(f"{name}: disc and gen differ in their number of rows")
    return checked


def _checked(array, manifest, where, rows):
    widths = [manifest.dimension]
    if manifest.cut_from not in (None, manifest.dimension):
        widths.append(manifest.cut_from)
    wanted = f"[{'n' if rows is None else rows}, {' or '.join(map(str, widths))}]"
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] not in widths:
        raise ValueError(f"{where} is {array.dtype} {list(array.shape)}, wants float32 {wanted}")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{where} is {array.dtype} {list(array.shape)}, wants float32 {wanted}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{where} holds values that are not finite")
    lengths = np.linalg.norm(array, axis=1)
    off = np.abs(lengths - 1) > LENGTH_ERROR
    if off.any():
        row = int(off.argmax())
        raise ValueError(f"{where}: row {row} has length {lengths[row]:.4g}, wants unit length")
    return shortened(array, manifest.dimension)
