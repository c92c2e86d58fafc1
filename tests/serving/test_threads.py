"""One core of the machine is for the requests."""

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
