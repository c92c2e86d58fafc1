"""Elementwise steps and rotations: values against the plain formula, gradients by gradcheck."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from umer1.model.fused import RMSNorm, add_rowwise_, quick_gelu, swiglu
from umer1.model.rotary import decoder_rotation, rotate_heads, vision_rotation

# Relative to the largest value: one rounding of the result in bfloat16.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [1, 24, 128])
def test_rms_norm(dtype, width, poisoned_memory):
    norm = RMSNorm(width, 1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    hidden = (torch.randn(5, width) * 3).to(dtype)
    wide = hidden.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    assert norm(hidden).dtype == dtype
    torch.testing.assert_close(
        norm(hidden).double(), expected, atol=TOLERANCE[dtype] * 10, rtol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_swiglu_and_quick_gelu(dtype, poisoned_memory):
    rows = (torch.randn(7, 26) * 3).to(dtype)
    gate, up = rows.double().chunk(2, dim=1)
    torch.testing.assert_close(
        swiglu(rows).double(), F.silu(gate) * up, atol=10 * TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )
    torch.testing.assert_close(
        quick_gelu(rows).double(),
        rows.double() * torch.sigmoid(1.702 * rows.double()),
        atol=10 * TOLERANCE[dtype],
        rtol=TOLERANCE[dtype],
    )


def test_gradients(poisoned_memory):
    norm = RMSNorm(6, 1e-6).double()
    hidden = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(norm, {"weight": w}, (x,)), (hidden, weight)
    )
    assert torch.autograd.gradcheck(swiglu, (hidden,))
    assert torch.autograd.gradcheck(quick_gelu, (hidden,))
    heads = torch.randn(4, 5, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(4, 1, 4, dtype=torch.float64)
    rotation = torch.polar(torch.ones_like(angles), angles)
    assert torch.autograd.gradcheck(lambda x: rotate_heads(x, 3, rotation), (heads,))


def test_gradients_of_expanded_and_strided_rows():
    """A gradient that is a broadcast view, as that of a sum is."""
    rows = torch.randn(4, 6, dtype=torch.float64).T.contiguous().T.requires_grad_()
    (ours,) = torch.autograd.grad(swiglu(rows).sum(), rows)
    gate, up = rows.chunk(2, dim=1)
    (expected,) = torch.autograd.grad((F.silu(gate) * up).sum(), rows)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rotation_of_pairs(dtype, poisoned_memory):
    """Heads past `rotated` are left alone; pair i of token t turns by position * theta^(-i/4)."""
    heads = torch.randn(3, 4, 8).to(dtype)
    positions = torch.tensor([0, 1, 70000])
    turned = rotate_heads(heads, 3, decoder_rotation(positions, 8, 1e6, (1, 1, 2)))
    assert torch.equal(turned[:, 3:], heads[:, 3:]) and torch.equal(turned[0], heads[0])
    angle = positions[:, None].double() * (1e6 ** (-torch.arange(4).double() / 4))
    first, second = heads[:, :3].double().unflatten(-1, (4, 2)).unbind(-1)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    expected = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(2)
    # float32 angles: 70000 * theta^(-1/4) is known to 2e-4.
    torch.testing.assert_close(
        turned[:, :3].double(), expected, atol=max(2e-3, TOLERANCE[dtype] * 3), rtol=0
    )


def test_sections_take_their_axis():
    positions = torch.tensor([[5], [3], [2]])
    rotation = decoder_rotation(positions, 8, 1e4, (1, 1, 2))[0, 0]
    angles = torch.tensor([5.0, 3.0 * 0.1, 2.0 * 0.01, 2.0 * 0.001])
    torch.testing.assert_close(rotation, torch.polar(torch.ones(4), angles))


def test_vision_halves_take_rows_and_columns():
    rotation = vision_rotation(torch.tensor([[2, 3]]), 8)[0, 0]
    angles = torch.tensor([2.0, 2.0 * 0.01, 3.0, 3.0 * 0.01])
    torch.testing.assert_close(rotation, torch.polar(torch.ones(4), angles))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_without_gradients_the_numbers_are_the_same(dtype):
    """Inference runs other code than training: what a trainer computes must be what was sampled."""
    norm = RMSNorm(48, 1e-6).to(dtype)
    torch.nn.init.normal_(norm.weight)
    rows = torch.randn(9, 4 * 48).to(dtype)
    rotation = decoder_rotation(torch.arange(9), 16, 1e4, (2, 3, 3))

    def steps():
        return (
            norm(rows[:, :48]),
            swiglu(rows),
            quick_gelu(rows),
            rotate_heads(rows.clone().unflatten(1, (12, 16)), 10, rotation),
        )

    with torch.no_grad():
        inference = steps()
    for plain, traced in zip(inference, steps()):
        torch.testing.assert_close(plain, traced, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        assert not plain.requires_grad


def test_rows_are_added_in_blocks_without_gradients():
    """The same numbers as at once; more than one block, the last one not longer than the others."""
    rows, seen = torch.randn(1100, 8), []

    def function(block):
        seen.append(len(block))
        return block.square()

    wanted = rows + rows.square()
    assert torch.equal(add_rowwise_(rows.clone(), function), wanted) and seen == [1100]
    with torch.no_grad():
        seen.clear()
        assert torch.equal(add_rowwise_(rows.clone(), function), wanted)
    assert len(seen) == 3 and sum(seen) == 1100 and max(seen) <= 512 and min(seen) > 300
