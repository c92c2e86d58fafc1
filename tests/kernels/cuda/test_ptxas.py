"""Every CUDA kernel compiles for GPUs that are not here, within the limits of bounds.json.

There, by kernel: registers per thread and bytes of shared memory at most, bytes spilled (none), and
how many instructions of a kind there are at least: loads of 16 bytes, asynchronous copies, tensor
cores. The kernel for warpgroups is empty where there are none.
"""

import json
from pathlib import Path

import pytest
from ptxas import INSTRUCTIONS, ROOT, measure, toolkit

BOUNDS = json.loads(Path(__file__).with_name("bounds.json").read_text())
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90a")
pytestmark = pytest.mark.skipif(toolkit() is None, reason="no nvcc (torch finds no CUDA_HOME)")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_within_bounds(source, architecture):
    found = measure(source, architecture)
    assert found
    for kernel, used in found.items():
        bounds = BOUNDS[kernel][architecture]
        assert used["registers"] <= bounds["registers"], kernel
        assert used["shared"] <= bounds["shared"], kernel
        assert used["spills"] == bounds["spills"] == 0, kernel
        for kind in bounds.keys() & INSTRUCTIONS:
            assert used[kind] >= bounds[kind], (kernel, kind)


def test_bounds_name_both_architectures():
    assert all(set(bounds) == set(ARCHITECTURES) for bounds in BOUNDS.values())
