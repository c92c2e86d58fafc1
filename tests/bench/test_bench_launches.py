"""What would make a host wait is counted, whoever does it, but not what only looks at tensors on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNTED = """
import json, sys
sys.path[:0] = [{root!r}, {kernels!r}]
import torch
from bench.launches import launches_and_syncs
from umer1_kernels import checks, gather_hidden

hidden, ids = torch.randn(6, 8), torch.tensor([1, 7, 1, 1, 7, 1])
bounds = torch.tensor([0, 3, 6], dtype=torch.int32)
def gather():
    return gather_hidden(hidden, ids, 7, cu_seqlens=bounds, backend="triton")
calls = {{
    "gather": gather,
    "and an item": lambda: gather()[0].sum().item(),
    "and a branch": lambda: bool(gather()[0].sum() > 0),
    "and a shape": lambda: gather()[0].nonzero(),
    "and a check": lambda: checks.check_range("ids", ids, 0, 9),
}}
print(json.dumps({{name: launches_and_syncs(call) for name, call in calls.items()}}))
"""


@pytest.fixture(scope="module")
def counted():
    code = COUNTED.format(root=str(ROOT), kernels=str(ROOT / "kernels"))
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_our_kernels_never_wait(counted):
    launches, syncs = counted["gather"]
    assert launches == 1 and syncs == 0


@pytest.mark.parametrize("what", ["and an item", "and a branch", "and a shape"])
def test_a_wait_is_counted(counted, what):
    assert counted[what] == [1, 1]


def test_looking_at_a_tensor_on_a_cpu_is_not(counted):
    assert counted["and a check"] == [0, 0]
