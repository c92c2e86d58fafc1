"""A result file of a GPU that is not there; what tests share is a plain module beside them."""

import sys
from pathlib import Path

import pytest

from bench import gpu, gpu_file
from bench.gpu_file import GpuFile
from bench.steps import Deadline

sys.path.insert(0, str(Path(__file__).parent))
HERE = {"gpu": "a GPU", "driver": "1", "cuda": "13", "python": "3.12", "packages": {}, "sources": "abc", "commit": "1"}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """What a result file says it was measured on; tests change it."""
    here = dict(HERE)
    monkeypatch.setattr(gpu_file, "environment", lambda: dict(here))
    return here


@pytest.fixture
def suite(environment, tmp_path):
    return gpu.Suite(GpuFile(tmp_path / "results" / "gpu.json"), Deadline(60))
