"""FAISS, imported when the first search or structure needs it."""

from types import ModuleType


def faiss_library() -> ModuleType:
    """The module `faiss`; ModuleNotFoundError says how to get it."""
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "an index needs FAISS: pip install 'umer1[search]' (or faiss-cpu)"
        ) from None
    return faiss
