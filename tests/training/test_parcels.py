"""Batches from workers: one block of shared memory each, whatever they are made of."""

import subprocess
import sys
from pathlib import Path

import torch

from umer1.model.sequence import Sequence
from umer1.training.parcels import Parcel


def test_what_is_sent_comes_back():
    shared = torch.arange(5)
    sent = {
        "many": [torch.randn(3, 2, dtype=torch.bfloat16), torch.tensor(7), torch.zeros(0, 3)],
        "odd": (torch.tensor([True, False, True]), torch.arange(12).view(3, 4).T, "text", None),
        "twice": [shared, shared],
        "sequence": Sequence(torch.arange(4), torch.zeros(4, dtype=torch.bool), None, torch.zeros(0, 3)),
    }  # fmt: skip
    parcel = Parcel.of(sent)
    assert parcel.block.is_shared()
    found = parcel.open()
    assert torch.equal(found["sequence"].input_ids, torch.arange(4))
    assert found["sequence"].pixel_values is None
    assert found["odd"][2:] == ("text", None)
    assert found["twice"][0] is found["twice"][1]
    for mine, its in zip(_tensors(found), _tensors(sent), strict=True):
        assert mine.dtype == its.dtype and torch.equal(mine, its)


def test_without_tensors():
    assert Parcel.of(["text", 3]).open() == ["text", 3]


def test_a_batch_of_many_tensors_needs_few_descriptors(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("many_tensors.py"), tmp_path],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "all came\n", done.stderr[-2000:]


def _tensors(made):
    return [*made["many"], *made["odd"][:2], *made["twice"]]
