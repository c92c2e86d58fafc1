"""linear_cross_entropy with row_weight: the weighted sum, its gradient, the rows' own losses."""

import pytest
import torch
import torch.nn.functional as F

from umer1_kernels import linear_cross_entropy
from umer1_kernels.backends import backend_status
from umer1_kernels.execution.weighted_cross_entropy import weighted_cross_entropy

T, H, V = 63, 24, 199
BACKENDS = [name for name in ("reference", "cpu") if backend_status()[name] == "available"]


def _inputs(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, H, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator).mul(0.5).to(dtype).requires_grad_()
    target = torch.randint(0, V, (T,), generator=generator)
    target[::3] = -100
    return hidden, weight, target, torch.rand(T, generator=generator) * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "dtype, bound", [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)]
)
def test_value_and_gradients(backend, dtype, bound):
    hidden, weight, target, row_weight = _inputs(dtype)
    found, losses = linear_cross_entropy(
        hidden, weight, target, row_weight=row_weight, reduction="sum", backend=backend
    )
    assert not losses.requires_grad
    (found * 0.5).backward()
    wide = [each.detach().double().requires_grad_() for each in (hidden, weight)]
    plain = F.cross_entropy(wide[0] @ wide[1].T, target, ignore_index=-100, reduction="none")
    wanted = (plain * row_weight).sum()
    (wanted * 0.5).backward()
    torch.testing.assert_close(losses.double(), plain.detach(), rtol=bound, atol=bound)
    torch.testing.assert_close(found.detach().double(), wanted.detach(), rtol=bound, atol=bound)
    for each, reference in zip((hidden, weight), wide):
        spread = float(reference.grad.abs().max())
        torch.testing.assert_close(each.grad.double(), reference.grad, rtol=0, atol=bound * spread)


def test_a_second_backward_is_the_first():
    hidden, weight, target, row_weight = _inputs(torch.float32)
    loss = linear_cross_entropy(hidden, weight, target, row_weight=row_weight, reduction="sum")[0]
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight))
    assert all(torch.equal(*each) for each in zip(first, second))


def test_nothing_supervised_and_a_frozen_head():
    hidden, weight, target, row_weight = _inputs(torch.float32)
    weight.requires_grad_(False)
    nothing = torch.full_like(target, -100)
    loss, losses = linear_cross_entropy(
        hidden, weight, nothing, row_weight=row_weight, reduction="sum"
    )
    loss.backward()
    assert (
        float(loss.detach()) == float(losses.abs().sum()) == float(hidden.grad.abs().sum()) == 0.0
    )
    assert weight.grad is None


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled extension is not built")
def test_opcheck():
    hidden, weight, target, row_weight = _inputs(torch.float32)
    leaves = (hidden.detach(), weight.detach())
    arguments = (*leaves, target, target != -100, row_weight, True, True, "cpu")
    torch.library.opcheck(weighted_cross_entropy, arguments)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled extension is not built")
def test_compiles_whole():
    hidden, weight, target, row_weight = _inputs(torch.float32)

    def loss(hidden, weight):
        options = dict(row_weight=row_weight, reduction="sum")
        return linear_cross_entropy(hidden * 2, weight, target, **options)[0]

    wanted = torch.autograd.grad(loss(hidden, weight), (hidden, weight))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(hidden, weight), (hidden, weight))
    assert all(torch.equal(*each) for each in zip(found, wanted))


def test_wrong_arguments_name_themselves():
    hidden, weight, target, row_weight = _inputs(torch.float32)
    with pytest.raises(ValueError, match="reduction is 'mean'; with row_weight it must be \"sum\""):
        linear_cross_entropy(hidden, weight, target, row_weight=row_weight)
    with pytest.raises(ValueError, match="row_weight has shape"):
        linear_cross_entropy(hidden, weight, target, row_weight=row_weight[1:], reduction="sum")
