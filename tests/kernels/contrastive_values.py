"""What the tests of the contrastive losses share."""

import torch
import torch.nn.functional as F

ALL_DIRECTIONS = [
    ("q2t",),
    ("t2q",),
    ("q2q",),
    ("t2t",),
    ("q2t", "t2q"),
    ("q2t", "t2q", "q2q", "t2t"),
]


def vectors(rows, dimension, dtype=torch.float64):
    return F.normalize(torch.randn(rows, dimension, dtype=dtype), dim=1).requires_grad_()


def relative(got, truth):
    return (
        (got.double() - truth.double()).abs().max() / truth.double().abs().max().clamp_min(1e-6)
    ).item()


def value_and_grad(loss, *inputs, upstream=None):
    grads = torch.autograd.grad(loss, inputs, upstream, allow_unused=True)
    return [
        loss.detach(),
        *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs)),
    ]
