"""An index of 63 items in both modes."""

import numpy as np
import pytest

from umer1.retrieval import VectorIndex


def _unit(seed, rows, dimension=24):
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def unit():
    """unit(seed, rows, dimension=24): float32 rows of unit length."""
    return _unit


@pytest.fixture
def index(tmp_path):
    """Items p0 … p62 with disc vectors unit(0, 63) and gen vectors unit(1, 63)."""
    made = VectorIndex.create(tmp_path / "a", model="m@1", dimension=24)
    vectors = {"disc": _unit(0, 63), "gen": _unit(1, 63)}
    made.add([f"p{n}" for n in range(63)], vectors, [{"text": f"text {n}"} for n in range(63)])
    return made
