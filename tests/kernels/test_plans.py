"""Every plan gives the definition's values and gradients, in every dtype and at hostile shapes."""

import pytest
import torch
import torch.nn.functional as F

from umer1_kernels import info_nce, linear_cross_entropy, plans
from umer1_kernels.backends.cpu import primitives

# relative Frobenius error of a gradient; bfloat16's is a promise of the library
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-3}
# a float32 logit of size `scale` is off by up to 6e-8 * scale, an exponential by that share
ROUNDING = {torch.float64: 1e-14, torch.float32: 3e-7, torch.bfloat16: 3e-7}


@pytest.fixture(params=["kept", "again", "chunks"])
def plan(request, monkeypatch):
    """Both directions of kept logits, logits made twice, and everything in chunks of five rows.

    All through the fused bfloat16 operators, which small problems do not take on their own.
    """
    monkeypatch.setattr(primitives, "SMALL_LOGITS", 16)
    if request.param != "kept":
        monkeypatch.setattr(plans, "KEPT_BYTES", {"cpu": 0})
    if request.param == "chunks":
        monkeypatch.setattr(plans, "CHUNK_ROWS", 5)
        monkeypatch.setattr(plans, "CHUNK_BYTES", {"cpu": 0})
        monkeypatch.setattr(primitives, "LOGITS_BYTES", 4 * 5 * 100)
        monkeypatch.setattr(primitives, "PRODUCT_BYTES", 1000)


def vectors(rows, dimension, dtype, spread=0.5):
    """Unit rows around a common direction, as embeddings are."""
    base = torch.randn(dimension)
    return F.normalize(base + spread * dimension**0.5 * torch.randn(rows, dimension), dim=1).to(
        dtype
    )


def errors(loss_of, *inputs):
    """(loss error, largest gradient error) against float64 on the reference backend."""
    mine = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    loss, truth = loss_of(*mine, backend="cpu"), loss_of(*exact, backend="reference")
    grads, truths = (torch.autograd.grad(x, y) for x, y in ((loss, mine), (truth, exact)))
    sizes = [
        ((g.double() - t).norm() / t.norm().clamp_min(1e-30)).item() for g, t in zip(grads, truths)
    ]
    floor = max(t.norm().item() for t in truths)
    return abs(loss.item() - truth.item()), max(sizes) if floor > 1e-12 else 0.0


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("directions", [("q2t",), ("t2q",), ("q2t", "t2q"), ("t2q", "q2t", "q2q")])
@pytest.mark.parametrize("scale", [1.0, 50.0, 200.0, -3.0])
@pytest.mark.parametrize(
    "shape", [(1, 2, 8), (37, 37, 199), (63, 100, 70), (100, 600, 33)], ids=str
)
def test_contrastive(plan, dtype, directions, scale, shape):
    rows, targets, dimension = shape
    query, target = vectors(rows, dimension, dtype), vectors(targets, dimension, dtype)
    loss_error, error = errors(
        lambda q, t, **kw: info_nce(q, t, scale=scale, directions=directions, **kw), query, target
    )
    assert loss_error < 2e-6 * max(1.0, abs(scale))
    assert error <= TOLERANCE[dtype] + ROUNDING[dtype] * abs(scale)


@pytest.mark.parametrize("partition", ["per_direction", "joint"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_ids_weights_and_offsets(plan, dtype, partition):
    query, target = vectors(40, 64, dtype), vectors(700, 64, dtype)
    ids = torch.randint(0, 30, (700,))
    options = {
        "query_ids": ids[3:43],
        "target_ids": ids,
        "label_offset": 3,
        "row_weight": torch.arange(40.0) % 3,
        "partition": partition,
    }
    loss_error, error = errors(lambda q, t, **kw: info_nce(q, t, **options, **kw), query, target)
    assert loss_error < 1e-4 and error <= TOLERANCE[dtype] + 50 * ROUNDING[dtype]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (3, 7), (63, 100)], ids=str)
def test_small_bfloat16_gradients_are_rounded_once(shape):
    query, target = (vectors(count, 16, torch.bfloat16) for count in shape)
    loss_error, error = errors(info_nce, query, target)
    assert loss_error < 1e-5 and error < 2e-3


def test_softmaxes_further_apart_than_exponentials_reach(plan):
    """Row maxima e^200 above column maxima: what was kept relative to rows is made again."""
    torch.manual_seed(3)
    query, target = vectors(30, 16, torch.bfloat16, 9.0), vectors(30, 16, torch.bfloat16, 9.0)
    query[0], target[1] = 1.0, 1.0  # one pair of negatives with x = 16, all others below 4
    loss_error, error = errors(lambda q, t, **kw: info_nce(q, t, scale=20.0, **kw), query, target)
    assert loss_error < 1e-3 and error <= 4e-3


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 5), (37, 600, 96), (70, 1025, 33)], ids=str)
def test_linear(plan, monkeypatch, dtype, shape):
    tokens, vocabulary, size = shape
    hidden = (2 * torch.randn(tokens, size)).to(dtype)
    weight = (torch.randn(vocabulary, size) / 2).to(dtype)
    target = torch.randint(0, vocabulary, (tokens,))
    target[1::3] = -100
    loss_error, error = errors(
        lambda h, w, **kw: linear_cross_entropy(h, w, target, **kw), hidden, weight
    )
    assert loss_error < 2e-5 and error <= TOLERANCE[dtype] + 20 * ROUNDING[dtype]


def test_a_second_backward_makes_the_gradient_again():
    """The first backward may scale its gradients in place; a second one must not see that."""
    query, target = vectors(6, 8, torch.float64).requires_grad_(), vectors(6, 8, torch.float64)
    loss = info_nce(query, target)
    one, other = (torch.autograd.grad(3.0 * loss, query, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, other)
    weight, label = vectors(9, 8, torch.float64).requires_grad_(), torch.arange(6)
    loss = linear_cross_entropy(query, weight, label)
    one, other = (torch.autograd.grad(3.0 * loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_an_upstream_gradient_is_not_rounded_to_bfloat16():
    """1/3 in bfloat16 is 0.2 % off: the whole gradient would be."""
    query, target = (
        vectors(64, 32, torch.bfloat16).requires_grad_(),
        vectors(64, 32, torch.bfloat16),
    )
    (once,) = torch.autograd.grad(info_nce(query, target), query)
    (third,) = torch.autograd.grad(info_nce(query, target) / 3, query)
    ratio = (third.double() * once.double()).sum() / once.double().square().sum()
    assert ratio.item() == pytest.approx(1 / 3, rel=2e-4)


def test_plans_by_shape():
    both = ("q2t", "t2q")
    small = plans.contrastive(both, True, 4096, 4096, 1536, 2, "cpu")
    large = plans.contrastive(both, True, 16384, 16384, 1536, 2, "cpu")
    assert (small, large) == (plans.PAIR_KEPT, plans.PAIR_AGAIN)
    assert plans.contrastive(("q2t",), True, 16384, 16384, 1536, 2, "cpu") is plans.ROW_CHUNKS
    assert plans.contrastive(both, False, 64, 64, 8, 2, "cpu").products == 6
    assert plans.one_way(2048, 151936, 1536, 2, "cpu") is plans.WHOLE
