"""Matryoshka vectors: the first numbers of a vector as a vector of their own."""

import numpy as np


def shortened(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """float32 [n, D] -> [n, dimension]: the first numbers, unit length again; D = dimension is
    returned as it is."""
    if vectors.shape[1] == dimension:
        return vectors
    cut = vectors[:, :dimension]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    # a vector with nothing in its first numbers stays zero: it is near to no query
    return np.ascontiguousarray(cut / np.where(lengths, lengths, 1))
