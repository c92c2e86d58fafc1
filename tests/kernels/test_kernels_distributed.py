"""The `group=` forms on gloo processes equal one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("distributed_cases.py")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_equal_one(world, tmp_path):
    command = [sys.executable, CASES]
    # the package this process imported, installed or not
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), tmp_path / "store"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0 and "everything equal" in output, output
