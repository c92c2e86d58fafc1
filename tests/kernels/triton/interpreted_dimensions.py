"""Gradients at the hidden sizes of real models. In float32: the interpreter's bfloat16 products
are wrong.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from model_dimensions import DIMENSIONS, LOSSES, TOLERANCE, gradient_error


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(loss, dimension):
    assert gradient_error(loss, dimension, torch.float32, "triton") < TOLERANCE[torch.float32]
