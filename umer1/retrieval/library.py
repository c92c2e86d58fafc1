"""FAISS, imported when the first search or structure needs it, and what its Python side lacks."""

from collections.abc import Callable
from types import ModuleType

import numpy as np


def faiss_library() -> ModuleType:
    """The module `faiss`; ModuleNotFoundError says how to get it."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "an index needs FAISS: pip install 'umer1[search]' (or faiss-cpu)"
        ) from None
    return faiss


def copy_into(vector, array: np.ndarray) -> None:
    """Fill a std::vector of FAISS, whatever owns its memory."""
    faiss = faiss_library()
    array = np.ascontiguousarray(array)
    vector.resize(len(array))
    if len(array):
        faiss.memcpy(vector.data(), faiss.swig_ptr(array), array.nbytes)


def selection(stored, rows: int):
    """An IDSelector of the first rows that are not deleted; None if all are there."""
    alive = stored.alive[:rows]
    if alive.all():
        return None
    return faiss_library().IDSelectorBitmap(np.packbits(alive, bitorder="little"))


def search_until(
    search: Callable[[np.ndarray, int], np.ndarray],
    queries: np.ndarray,
    wanted: int,
    effort: int,
    most: int,
) -> np.ndarray:
    """Row numbers int64 [m, c] near queries float32 [m, w], -1 where there are no more.

    search: (queries, effort) -> row numbers. Queries with fewer than `wanted` rows are searched
    again with more effort, up to `most`.
    """
    near = search(queries, effort)
    short = np.flatnonzero((near >= 0).sum(axis=1) < wanted)
    while len(short) and effort < most:
        effort = min(most, 4 * effort)
        near[short] = search(queries[short], effort)
        short = short[(near[short] >= 0).sum(axis=1) < wanted]
    return near
