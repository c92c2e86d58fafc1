"""One core of the machine is for the requests."""

import os
import subprocess
import sys

import pytest
import torch

from umer1.serving.threads import leave_a_core


@pytest.fixture
def threads(monkeypatch):
    """What torch was told last; it believes to have so many cores."""
    told = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: told[-1])
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return told


@pytest.mark.parametrize(("cores", "left"), [(1, 1), (2, 1), (8, 7)])
def test_all_but_one(threads, cores, left):
    threads[:] = [cores]
    assert leave_a_core() == left == threads[-1]


def test_the_environment_decides(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert leave_a_core() == 4 and threads == [4]


# how many threads the first product of an engine's thread starts, where torch was told to use one
FIRST_STEP = """
import asyncio, os, threading, types, torch
from umer1.serving.engine_thread import EngineThread

torch.set_num_threads(1)
weight, inputs = torch.randn(1024, 1024), torch.randn(512, 1024)
weight = torch.ops.mkldnn._reorder_linear_weight(weight, 512)
count, done = (lambda: len(os.listdir("/proc/self/task"))), threading.Event()

class Engine:
    idle = False
    def step(self):
        before = count()
        torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")
        print(count() - before)
        done.set()
        self.idle, self.step = True, None

pages = types.SimpleNamespace(total=1)
Engine.stepper = types.SimpleNamespace(scheduler=types.SimpleNamespace(slots=1, pages=pages))
thread = EngineThread(Engine())
thread.start(asyncio.new_event_loop())
done.wait()
thread.stop()
"""


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: one thread in any case")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_the_engine_s_thread_keeps_to_it():
    environment = {name: os.environ[name] for name in os.environ if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", FIRST_STEP]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert out.stdout.split() == ["0"], out.stderr
