"""FAISS, imported when the first search or structure needs it, and what its Python side lacks."""

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
