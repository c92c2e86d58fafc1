"""info_nce and dual_info_nce: values and gradients against the definition, on every backend."""

import pytest
import torch
import torch.nn.functional as F
from contrastive_truth import row_losses
from contrastive_values import ALL_DIRECTIONS, relative, value_and_grad, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1_kernels import info_nce

# largest |difference| / largest |truth|; float32 logits of size 50 carry 4e-6 of their own
TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-5}


@pytest.mark.parametrize("partition", ["per_direction", "joint"])
@pytest.mark.parametrize("directions", ALL_DIRECTIONS, ids="+".join)
@pytest.mark.parametrize("ids", [False, True], ids=["no-ids", "ids"])
def test_matches_the_definition(backend, directions, partition, ids):
    query, target = vectors(5, 6), vectors(8, 6)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([3, 0, 3, 7, 1])  # a shared target, and hard negatives
    names = (
        {"query_ids": torch.tensor([0, 1, 2, 0, 1]), "target_ids": torch.arange(8) % 3}
        if ids
        else {}
    )
    truth = row_losses(
        query,
        target,
        scale,
        labels,
        names.get("query_ids"),
        names.get("target_ids"),
        directions,
        partition,
    )
    got = info_nce(
        query, target, scale=scale, labels=labels, directions=directions, partition=partition,
        reduction="none", backend=backend, **names,
    )  # fmt: skip
    upstream = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    inputs = (query, target, scale)
    pairs = zip(
        value_and_grad(got, *inputs, upstream=upstream),
        value_and_grad(truth, *inputs, upstream=upstream),
    )
    for one, other in pairs:
        assert relative(one, other) < 1e-11


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 8), (1, 5, 3), (2, 2, 1), (63, 100, 17), (100, 100, 199)], ids=str
)
def test_released_loss(backend, dtype, shape):
    """The defaults are the mean of two cross-entropies over the in-batch logits at scale 50."""
    rows, targets, dimension = shape
    query, target = vectors(rows, dimension, dtype), vectors(targets, dimension, dtype)
    y = torch.arange(rows)
    wide_query, wide_target = query.double(), target.double()
    forth = F.cross_entropy(50 * wide_query @ wide_target.T, y)
    back = F.cross_entropy(50 * wide_target[:rows] @ wide_query.T, y)
    truth = value_and_grad((forth + back) / 2, query, target)
    for got, expected in zip(
        value_and_grad(info_nce(query, target, backend=backend), query, target), truth
    ):
        # a cross-entropy near zero has lost digits of its own: the floor of the scale is 1
        error = (got.double() - expected.double()).abs().max()
        assert error < TOLERANCE[dtype] * max(1.0, expected.abs().max().item())


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_backends_agree_on_ragged_shapes(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    rows = data.draw(st.integers(1, 40))
    targets = rows + data.draw(st.integers(0, 30))
    dimension = data.draw(st.integers(1, 20))
    scale = data.draw(st.sampled_from([1.0, 20.0, 100.0, 200.0]))
    query, target = (
        vectors(rows, dimension, torch.float32),
        vectors(targets, dimension, torch.float32),
    )
    ids = torch.randint(0, 1 + targets // 3, (targets,)) if data.draw(st.booleans()) else None
    options = {
        "scale": scale,
        "directions": data.draw(st.sampled_from(ALL_DIRECTIONS)),
        "partition": data.draw(st.sampled_from(["joint", "per_direction"])),
        "target_ids": ids,
        "query_ids": None if ids is None else ids[:rows],
    }
    results = [
        value_and_grad(info_nce(query, target, backend=backend, **options), query, target)
        for backend in ("cpu", "reference")
    ]
    exact = [x.detach().double().requires_grad_() for x in (query, target)]
    loss = info_nce(*exact, backend="reference", **options)
    truth = value_and_grad(loss, *exact)
    for cpu, reference, expected in zip(*results, truth):
        own_error = (reference - expected).abs().max()
        # a float32 logit of size `scale` is off by up to 6e-8 * scale, a gradient by that share
        rounding = 4e-7 * scale * max(1.0, expected.abs().max().item())
        assert (cpu - expected).abs().max() <= 2 * own_error + rounding


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("partition", ["per_direction", "joint"])
def test_gradcheck(backend, reduction, partition):
    query, target = vectors(4, 3), vectors(6, 3)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, 0.5, 0.0, 2.0])
    ids = {"query_ids": torch.tensor([0, 1, 0, 3]), "target_ids": torch.tensor([0, 1, 0, 3, 1, 5])}

    def loss(query, target, scale):
        return info_nce(
            query, target, scale=scale, row_weight=weight, directions=("q2t", "t2q", "q2q", "t2t"),
            partition=partition, reduction=reduction, backend=backend, **ids,
        )  # fmt: skip

    torch.autograd.gradcheck(loss, (query, target, scale))


def test_weights_ignored_rows_and_offsets(backend):
    query, target = vectors(4, 6), vectors(9, 6)
    labels = torch.tensor([0, -100, 3, 1])
    weight = torch.tensor([1.0, 5.0, 3.0, 0.0])
    kept = torch.tensor([True, False, True, True])
    rows = row_losses(
        query,
        target,
        50.0,
        torch.where(kept, labels + 2, 0),
        None,
        None,
        ("q2t", "t2q"),
        "per_direction",
    )
    got = info_nce(query, target, labels=labels, label_offset=2, row_weight=weight, backend=backend)
    truth = (rows[0] * 1.0 + rows[2] * 3.0) / 4.0  # an ignored row's weight counts nothing
    for one, other in zip(value_and_grad(got, query, target), value_and_grad(truth, query, target)):
        assert relative(one, other) < 1e-11


def test_nothing_counts(backend):
    query, target = vectors(3, 4), vectors(3, 4)
    for extra in ({"labels": torch.full((3,), -100)}, {"row_weight": torch.zeros(3)}):
        loss = info_nce(query, target, backend=backend, **extra)
        assert loss.item() == 0.0
        assert all((grad == 0).all() for grad in torch.autograd.grad(loss, (query, target)))


def test_all_negatives_masked(backend):
    """One id for everything: only positives are left, the loss is 0 and so is its gradient."""
    query, target = vectors(3, 4), vectors(5, 4)
    ids = {
        "query_ids": torch.zeros(3, dtype=torch.long),
        "target_ids": torch.zeros(5, dtype=torch.long),
    }
    loss = info_nce(query, target, backend=backend, **ids)
    assert loss.item() == 0.0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, (query, target)))


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits(backend, size):
    """Logits to 1e4, of both signs, in float32: no overflow, the right winner."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    target = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = info_nce(
        query, target, scale=size, directions=("q2t",), reduction="none", backend=backend
    )
    assert torch.allclose(loss, torch.tensor([size, 0.0]), rtol=1e-5)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss.sum(), (query, target)))


def test_a_loss_near_zero_keeps_its_digits(backend):
    """exp(-40) is lost in 1 + exp(-40), but not in the loss or its gradient."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = info_nce(query, query.detach(), scale=40.0, directions=("q2t",), backend=backend)
    if backend == "cpu":  # the reference is exact in float64 only
        assert loss.item() == pytest.approx(4.248354e-18, rel=1e-4)
    assert 0 <= loss.item() < 1e-6


@pytest.mark.parametrize(
    "backend_dtype", [("cpu", torch.bfloat16), ("reference", torch.bfloat16)], ids=str
)
def test_bfloat16_inputs(backend_dtype, record_property):
    """Hazard H8: gradients within 4e-3 of float64; bfloat16 logits are far worse."""
    backend, dtype = backend_dtype
    torch.manual_seed(1)
    # the clustered case: rank 16, positives at cosine 0.7
    base = torch.randn(256, 16) @ torch.randn(16, 64)
    query = (
        F.normalize(base + 0.6 * torch.randn(256, 64) * base.std(), dim=1)
        .to(dtype)
        .requires_grad_()
    )
    target = (
        F.normalize(base + 0.6 * torch.randn(256, 64) * base.std(), dim=1)
        .to(dtype)
        .requires_grad_()
    )
    exact = [x.detach().double().requires_grad_() for x in (query, target)]
    truth = torch.autograd.grad(info_nce(*exact, backend="reference"), exact)
    got = torch.autograd.grad(info_nce(query, target, backend=backend), (query, target))
    y = torch.arange(256)
    logits = (query * 50) @ target.T
    usual = torch.autograd.grad(
        (F.cross_entropy(logits, y) + F.cross_entropy(logits.T, y)) / 2, (query, target)
    )

    def error(grads):
        return max(((g.double() - t).norm() / t.norm()).item() for g, t in zip(grads, truth))

    record_property("gradient error", error(got))
    record_property("gradient error of bfloat16 logits", error(usual))
    assert error(got) <= 4e-3
    assert error(usual) > 5 * error(got)


def test_autocast_does_not_round_the_logits(backend):
    query, target = vectors(32, 16, torch.float32), vectors(32, 16, torch.float32)
    plain = value_and_grad(info_nce(query, target, backend=backend), query, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(query, target, backend=backend)
    inside = value_and_grad(loss, query, target)
    assert all(torch.equal(one, other) for one, other in zip(plain, inside))


def test_strided_inputs_and_upstream(backend):
    wide = torch.randn(12, 10, dtype=torch.float64, requires_grad=True)
    query, target = wide[::2, ::2], wide[1::2, 1::2]
    loss = info_nce(query, target, scale=2.0, reduction="none", backend=backend)
    truth = info_nce(
        query.contiguous(), target.contiguous(), scale=2.0, reduction="none", backend="reference"
    )
    expanded = torch.ones((), dtype=torch.float64).expand(6)
    got, expected = (
        torch.autograd.grad(x, wide, expanded, retain_graph=True)[0] for x in (loss, truth)
    )
    assert relative(got, expected) < 1e-12
    assert torch.equal(
        got, torch.autograd.grad(loss, wide, expanded)[0]
    )  # retain_graph kept it usable


def test_bitwise_repeatable():
    query, target = vectors(130, 24, torch.float32), vectors(300, 24, torch.float32)
    runs = [value_and_grad(info_nce(query, target, backend="cpu"), query, target) for _ in range(3)]
    assert all(torch.equal(one, other) for run in runs for one, other in zip(runs[0], run))


def test_memory_is_written_before_it_is_read(poisoned_memory):
    query, target = vectors(9, 5), vectors(14, 5)
    results = [
        value_and_grad(info_nce(query, target, backend=backend), query, target)
        for backend in ("cpu", "reference")
    ]
    assert all(relative(one, other) < 1e-11 for one, other in zip(*results))


def test_ties_cancel_at_any_scale():
    """Two targets alike: one pulls, the other pushes, nothing is left but float32's last bit."""
    query = torch.tensor([[0.6, 0.8]], requires_grad=True)
    target = torch.tensor([[0.3, -0.9], [0.3, -0.9]], requires_grad=True)
    for scale in (50.0, 200.0, 3000.0):
        loss = info_nce(query, target, scale=scale, directions=("q2t",), backend="cpu")
        assert loss.item() == pytest.approx(0.6931472, rel=1e-6)
        (grad,) = torch.autograd.grad(loss, query)
        assert grad.abs().max() < 1e-6 * scale


def test_nan_is_not_hidden(backend):
    query, target = vectors(4, 5, torch.float32), vectors(40, 5, torch.float32)
    with torch.no_grad():
        target[20, 0] = float("nan")
    assert info_nce(query, target, directions=("q2t",), backend=backend).isnan()


def test_second_derivative_is_refused_not_wrong():
    query, target = vectors(3, 4), vectors(3, 4)
    loss = info_nce(query, target, backend="cpu")
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(loss, query, create_graph=True)
