"""Search over stored vectors: an index on disk, with FAISS."""

from umer1.retrieval.vector_index import Hit, VectorIndex

__all__ = ["Hit", "VectorIndex"]
