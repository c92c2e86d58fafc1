"""Shared by all tests: fixed seeds, few threads, and memory that shows when it is read before it is written."""

import os

# before torch is imported: the test machine's cores are shared
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ALLOCATORS = ("empty", "empty_like", "empty_strided")
TENSOR_ALLOCATORS = ("new_empty", "new_empty_strided")


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory(monkeypatch):
    """torch.empty and its relatives return NaN (integers: the smallest value) instead of whatever was there."""

    def poisoning(allocate):
        def poisoned(*args, **keywords):
            return _poison(allocate(*args, **keywords))

        return poisoned

    for name in ALLOCATORS:
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))
    for name in TENSOR_ALLOCATORS:
        monkeypatch.setattr(torch.Tensor, name, poisoning(getattr(torch.Tensor, name)))


def _poison(tensor):
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return tensor
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        return tensor.fill_(float("nan"))
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(torch.iinfo(tensor.dtype).min)
