"""The engine on the Triton kernels, interpreted; see tests/kernels/triton/test_interpreted.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
def test_under_the_interpreter():
    file = Path(__file__).with_name("interpreted_engine.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    command += ["-W", "ignore::RuntimeWarning:triton.runtime.interpreter"]
    run = subprocess.run(
        command, cwd=file.parents[2], env=environment, capture_output=True, text=True
    )
    if "only 0-dimensional arrays can be converted" in run.stdout:
        pytest.skip("this Triton's interpreter (3.6) needs a NumPy before 2.4")
    assert run.returncode == 0 and "2 passed" in run.stdout, run.stdout[-8000:] + run.stderr[-2000:]
