"""The *_value_and_grad functions return what backward leaves behind, without the caller's graph."""

import pytest
import torch
import torch.nn.functional as F

from umer1_kernels import (
    dual_info_nce,
    dual_info_nce_value_and_grad,
    info_nce,
    info_nce_value_and_grad,
)


def vectors(rows, dimension=6, dtype=torch.float64):
    return F.normalize(torch.randn(rows, dimension, dtype=dtype), dim=1)


def leaves(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_backward(backend, dtype, reduction):
    query, target, scale = vectors(5, dtype=dtype), vectors(7, dtype=dtype), torch.tensor(9.0)
    options = {
        "labels": torch.tensor([3, 0, -100, 6, 1]),
        "row_weight": torch.rand(5),
        "reduction": reduction,
        "backend": backend,
    }
    own = leaves(query, target, scale)
    loss = info_nce(own[0], own[1], scale=own[2], **options)
    loss.backward()

    with torch.no_grad():
        result = info_nce_value_and_grad(query, target, scale=scale, **options)
    assert torch.equal(result.loss, loss.detach())
    for name, leaf in zip(("query", "target", "scale"), own):
        got = getattr(result, name)
        assert got.dtype == leaf.dtype and got.shape == leaf.shape and not got.requires_grad
        assert torch.equal(got, leaf.grad), name
    assert not result.loss.requires_grad


def test_dual_equals_backward(backend):
    tensors = [vectors(4), vectors(6), vectors(4), vectors(6)]
    scale = torch.tensor([9.0], dtype=torch.float64)
    own = leaves(*tensors, scale)
    options = {"align": 0.3, "partition": "joint", "backend": backend}
    expected = dual_info_nce(own[:2], own[2:4], scale=own[4], **options)
    expected.loss.backward()

    result = dual_info_nce_value_and_grad(tensors[:2], tensors[2:], scale=scale, **options)
    for name in ("loss", "gen", "disc", "align"):
        value = getattr(result.result, name)
        assert torch.equal(value, getattr(expected, name).detach()) and not value.requires_grad
    assert result.result.metrics.keys() == expected.metrics.keys()
    grads = (*result.gen, *result.disc, result.scale)
    for got, leaf in zip(grads, own):
        assert torch.equal(got, leaf.grad)


def test_callers_tensors_are_left_alone(backend):
    """No graph is kept and no .grad is written, even where the inputs ask for gradients."""
    tower = torch.nn.Linear(6, 6).double()
    query, target = tower(vectors(3)), vectors(3).requires_grad_()
    result = info_nce_value_and_grad(query, target, scale=9.0, backend=backend)
    assert result.scale is None
    assert target.grad is None and tower.weight.grad is None
    assert query.requires_grad and query.grad_fn is not None


@pytest.mark.parametrize("directions", [("q2t",), ("q2q",), ("t2t",)])
def test_every_direction_has_both_gradients(backend, directions):
    query, target = vectors(4), vectors(4)
    own = leaves(query, target)
    info_nce(*own, directions=directions, backend="reference").backward()
    result = info_nce_value_and_grad(query, target, directions=directions, backend=backend)
    assert torch.allclose(result.query, own[0].grad, atol=1e-12)
    assert torch.allclose(result.target, own[1].grad, atol=1e-12)


def test_works_in_inference_mode(backend):
    query, target = vectors(4), vectors(4)
    expected = info_nce_value_and_grad(query, target, backend=backend)
    with torch.inference_mode():
        inside = info_nce_value_and_grad(query.clone(), target.clone(), backend=backend)
    assert torch.equal(inside.query, expected.query)


def test_all_rows_ignored_gives_zeros(backend):
    result = info_nce_value_and_grad(
        vectors(3), vectors(3), labels=torch.full((3,), -100), backend=backend
    )
    assert result.loss == 0 and not result.query.any() and not result.target.any()


def test_errors_name_the_argument():
    query, target = vectors(3), vectors(3)
    with pytest.raises(ValueError, match="reduction is 'none'"):
        info_nce_value_and_grad(query, target, reduction="none")
    with pytest.raises(ValueError, match="reduction is 'none'"):
        dual_info_nce_value_and_grad((query, target), (query, target), reduction="none")
    with pytest.raises(TypeError, match="query is a list"):
        info_nce_value_and_grad([1.0], target)
    with pytest.raises(TypeError, match="query has dtype"):
        info_nce_value_and_grad(query.long(), target)
    with pytest.raises(TypeError, match="disc must be a pair"):
        dual_info_nce_value_and_grad((query, target), query)
    with pytest.raises(TypeError, match="reductoin"):
        info_nce_value_and_grad(query, target, reductoin="sum")
