"""Kernel tests run on every CPU backend; without the compiled extension "cpu" fails, not skips."""

import sys
from pathlib import Path

import pytest

# the truths beside the tests are plain modules
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    return request.param
