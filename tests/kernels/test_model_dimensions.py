"""Gradients at the hidden sizes of real models, on the compiled CPU backend."""

import pytest
from model_dimensions import DIMENSIONS, LOSSES, TOLERANCE, gradient_error

from umer1_kernels.backends.cpu import primitives


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss, dimension, dtype, monkeypatch):
    monkeypatch.setattr(primitives, "SMALL_LOGITS", 16)  # bfloat16 through its own product
    assert gradient_error(loss, dimension, dtype, "cpu") < TOLERANCE[dtype]
