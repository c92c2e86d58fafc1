"""One process of the distributed example test: `python loss_example_cases.py RANK WORLD STORE`.

The truth is the global loss of the whole batch in one process, scaled as the class replaced scales
it: `value` is what a process returns, `gradient` what its backward leaves for its own rows, both in
units of the global loss (None: the loss of the process's own rows).
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = 3


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(name, rank, world, ours, whole, targets, value, gradient):
    vectors = [
        F.normalize(torch.randn(world * rows, 6, dtype=torch.float64), dim=1).requires_grad_()
        for rows in (ROWS, targets)
    ]
    truth, rows = whole(*vectors)
    grads = torch.autograd.grad(truth, vectors)
    own = [x.detach().view(world, -1, 6)[rank].clone().requires_grad_() for x in vectors]
    loss = ours(*own)
    expected = rows.view(world, ROWS)[rank].mean() if value is None else value * truth
    assert torch.allclose(loss, expected), (name, loss, expected)
    for got, full in zip(torch.autograd.grad(loss, own), grads):
        assert torch.allclose(got, gradient * full.view(world, -1, 6)[rank]), name


def symmetric(image, text):
    logits = 20.0 * image @ text.T
    here = torch.arange(len(logits))
    rows = (
        F.cross_entropy(logits, here, reduction="none")
        + F.cross_entropy(logits.T, here, reduction="none")
    ) / 2
    return rows.mean(), rows


def one_way(query, target):
    label = torch.arange(len(query)) * (len(target) // len(query))
    rows = F.cross_entropy(query @ target.T * 20.0, label, reduction="none")
    return rows.mean(), rows


def main(rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    clip, vlm2vec, ume_r1 = (
        example(f"losses_{name}") for name in ("open_clip", "vlm2vec", "ume_r1")
    )
    for local, with_grad, value, gradient in (
        (True, True, None, world),
        (False, True, 1, world),
        (False, False, 1, 1),
    ):
        loss = clip.ClipLoss(local, with_grad, rank=rank, world_size=world)
        call = lambda q, t, loss=loss: loss(q, t, 20.0)
        check(f"open_clip {local} {with_grad}", rank, world, call, symmetric, ROWS, value, gradient)
    loss = ume_r1.ClipLoss(True, True, False, rank, world)
    call = lambda q, t: loss(q, t, 20.0)
    check("UME-R1", rank, world, call, symmetric, ROWS, None, world)
    for scaled in (True, False):
        factor = world if scaled else 1
        distributed = vlm2vec.DistributedContrastiveLoss(scale_loss=scaled, temperature=1 / 20)
        check("VLM2Vec", rank, world, distributed, one_way, 2 * ROWS, factor, factor)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    # gloo's threads sometimes abort an interpreter that shuts down in order
    os._exit(0)
