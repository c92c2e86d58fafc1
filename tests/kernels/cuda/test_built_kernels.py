"""The native kernels inside the built extension, read from the file: no GPU and no compiler needed.

test_ptxas.py compiles the sources anew and looks closer; this looks at what users get.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from umer1_kernels.extension import LIBRARY, cuda_kernels_missing

BOUNDS = json.loads(Path(__file__).with_name("bounds.json").read_text())
ARCHITECTURE = re.compile(r"^arch = (sm_\w+)$", re.MULTILINE)
USAGE = re.compile(r"Function (.+):\n\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
RESERVED = {"sm_80": 0, "sm_90a": 1024}  # shared memory of the system, counted in the file
KERNEL = re.compile(r"(\w+(?:<[^()]*>)?)\(")


def cuobjdump() -> Path | None:
    """The toolkit's, or the one that Triton brings."""
    if found := shutil.which("cuobjdump"):
        return Path(found)
    triton = pytest.importorskip("triton")
    bundled = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return bundled if bundled.exists() else None


def dumped(*options: str) -> str:
    command = [str(cuobjdump()), *options, str(LIBRARY)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return subprocess.run(["c++filt"], input=found, capture_output=True, text=True).stdout


pytestmark = [
    pytest.mark.skipif(
        cuda_kernels_missing() is not None, reason="the extension has no CUDA kernels"
    ),
    pytest.mark.skipif(cuobjdump() is None, reason="no cuobjdump"),
]


def test_every_kernel_is_within_its_bounds():
    parts = ARCHITECTURE.split(dumped("-res-usage"))
    seen = {"sm_80": set(), "sm_90a": set()}
    for architecture, report in zip(parts[1::2], parts[2::2], strict=True):
        for function, registers, stack, shared, local in USAGE.findall(report):
            name = KERNEL.search(function.replace("(anonymous namespace)::", ""))[1]
            bounds = BOUNDS[name][architecture]
            assert int(registers) <= bounds["registers"], (name, architecture)
            assert int(shared) <= bounds["shared"] + RESERVED[architecture], (name, architecture)
            assert int(stack) == int(local) == 0, (name, architecture)
            seen[architecture].add(name)
    assert seen["sm_80"] == seen["sm_90a"] == set(BOUNDS)


def test_later_chips_get_ptx():
    assert "sm_90.ptx" in dumped("-lptx")
