"""The Triton backend's tests under Triton's interpreter, in a process of their own.

Kernels are interpreted or compiled by what TRITON_INTERPRET says when their module is imported, so
the variable is set for a whole process; a failing test of it is in the message here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("interpreted_*.py"))


def test_under_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # the interpreter multiplies with NumPy: OpenBLAS's products for Haswell round a row by its place
    # in the tile, so that its bits would depend on the rows beside it
    environment["OPENBLAS_CORETYPE"] = "Sandybridge"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES]
    # entries that are masked afterwards may overflow before
    command += ["-W", "ignore::RuntimeWarning:triton.runtime.interpreter"]
    run = subprocess.run(
        command, cwd=FOLDER.parents[2], env=environment, capture_output=True, text=True
    )
    if "only 0-dimensional arrays can be converted" in run.stdout:
        pytest.skip("this Triton's interpreter (3.6) needs a NumPy before 2.4")
    assert len(FILES) >= 4 and run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout
