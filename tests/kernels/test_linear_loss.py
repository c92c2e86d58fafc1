"""linear_cross_entropy, linear_logprob and grpo_loss against plain formulas on full logits."""

import sys

import pytest
import torch
import torch.nn.functional as F

from umer1_kernels import grpo_loss, linear_cross_entropy, linear_logprob, plans

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def head(tokens, size, vocabulary, dtype=torch.float64):
    hidden = torch.randn(tokens, size, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocabulary, size, dtype=dtype) / size**0.5).requires_grad_()
    return hidden, weight


def check(got, truth, inputs, tolerance, upstream=None):
    """Values and gradients agree, relative to the largest entry of the truth."""
    grads = torch.autograd.grad(got, inputs, upstream, retain_graph=True)
    truths = torch.autograd.grad(truth, inputs, upstream, retain_graph=True)
    for one, other in zip((got, *grads), (truth, *truths)):
        error = (one.double() - other.double()).abs().max().item()
        assert error <= tolerance * max(1.0, other.abs().max().item())


@pytest.fixture(params=["reference", "reference in chunks", "cpu", "cpu in chunks"])
def backend(request, monkeypatch):
    """Every test on both backends, whole and in chunks of few rows."""
    name, *chunks = request.param.split(" ", 1)
    if chunks:
        reference = sys.modules["umer1_kernels.reference.linear_loss"]
        monkeypatch.setattr(reference, "CHUNK_LOGITS", 64)
        monkeypatch.setattr(plans, "CHUNK_ROWS", 3)
        monkeypatch.setattr(plans, "CHUNK_BYTES", {"cpu": 0})
        monkeypatch.setattr(plans, "one_way", lambda *shape: plans.ROW_CHUNKS)
    return name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(backend, reduction, dtype):
    hidden, weight = head(13, 5, 31, dtype)
    target = torch.randint(0, 31, (13,))
    target[[0, 4, 5, 12]] = -100
    got = linear_cross_entropy(hidden, weight, target, reduction=reduction, backend=backend)
    truth = F.cross_entropy(hidden.double() @ weight.double().T, target, reduction=reduction)
    upstream = torch.randn(13, dtype=got.dtype) if reduction == "none" else None
    truth = truth.to(got.dtype)
    check(got, truth, (hidden, weight), TOLERANCE[dtype], upstream)
    assert got.dtype == dtype


def test_cross_entropy_without_any_target(backend):
    hidden, weight = head(4, 3, 7)
    loss = linear_cross_entropy(
        hidden, weight, torch.full((4,), -1), ignore_index=-1, backend=backend
    )
    assert loss.item() == 0.0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, (hidden, weight)))


def test_ignored_rows_may_hold_anything(backend):
    """Padding, prompt and vision rows never reach the product: hazard H19."""
    hidden, weight = head(6, 4, 9)
    target = torch.tensor([1, -100, 3, -100, 8, 0])
    clean = linear_cross_entropy(hidden, weight, target, backend=backend)
    dirty = hidden.detach().clone()
    dirty[[1, 3]] = float("nan")
    dirty.requires_grad_()
    loss = linear_cross_entropy(dirty, weight, target, backend=backend)
    assert torch.equal(loss, clean)
    (grad,) = torch.autograd.grad(loss, dirty)
    assert (grad[[1, 3]] == 0).all() and grad.isfinite().all()


def test_loss_does_not_depend_on_the_packing_order(backend):
    """Hazard H9: the mean is over tokens, wherever they stand."""
    hidden, weight = head(12, 4, 9)
    target = torch.randint(-1, 9, (12,))
    order = torch.randperm(12)
    one = linear_cross_entropy(hidden, weight, target, ignore_index=-1, backend=backend)
    other = linear_cross_entropy(
        hidden[order], weight, target[order], ignore_index=-1, backend=backend
    )
    check(one, other, (hidden, weight), 1e-12)


def test_bfloat16_logits_are_not_rounded(backend):
    hidden, weight = head(40, 32, 97, torch.float32)
    hidden, weight = (x.detach().bfloat16().requires_grad_() for x in (hidden * 4, weight * 4))
    target = torch.randint(0, 97, (40,))
    exact = F.cross_entropy(hidden.double() @ weight.double().T, target)
    truths = torch.autograd.grad(exact, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, target, backend=backend)
    assert abs(loss.item() - exact.item()) < 1e-5
    for grad, truth in zip(torch.autograd.grad(loss, (hidden, weight)), truths):
        assert grad.dtype == torch.bfloat16
        assert ((grad.double() - truth.double()).norm() / truth.double().norm()).item() <= 4e-3


def test_autocast_does_not_round_the_logits(backend):
    hidden, weight = head(10, 16, 33, torch.float32)
    target = torch.randint(0, 33, (10,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_cross_entropy(hidden, weight, target, backend=backend)
    assert torch.equal(inside, linear_cross_entropy(hidden, weight, target, backend=backend))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("masked", [False, True])
def test_logprob_and_entropy(backend, temperature, masked):
    hidden, weight = head(11, 5, 23)
    ids = torch.randint(0, 23, (11,))
    mask = torch.randint(0, 2, (11,)) if masked else None
    keep = torch.ones(11, dtype=torch.bool) if mask is None else mask.bool()
    given = torch.where(keep, ids, -7)  # ids of masked rows may be anything
    logprob, entropy = linear_logprob(
        hidden,
        weight,
        given,
        temperature=temperature,
        mask=mask,
        return_entropy=True,
        backend=backend,
    )
    full = F.log_softmax(hidden @ weight.T / temperature, 1)
    truth = torch.where(keep, full.gather(1, ids[:, None]).squeeze(1), 0.0)
    true_entropy = torch.where(keep, -(full.exp() * full).sum(1), 0.0)
    check(logprob, truth, (hidden, weight), 1e-11, torch.randn(11, dtype=torch.float64))
    check(entropy, true_entropy, (hidden, weight), 1e-11, torch.randn(11, dtype=torch.float64))
    alone = linear_logprob(
        hidden, weight, given, temperature=temperature, mask=mask, backend=backend
    )
    assert torch.equal(alone, logprob)


def released_objective(logprob, old, ref, advantage, mask):
    """UME-R1's RL objective of one side with two sequences, token by token."""
    total = 0.0
    for t in range(len(logprob)):
        if mask[t]:
            ratio = torch.exp(logprob[t] - (logprob[t].detach() if old is None else old[t]))
            clipped = torch.clamp(ratio, 1 - 0.2, 1 + 0.28)
            kl = torch.exp(ref[t] - logprob[t]) - (ref[t] - logprob[t]) - 1
            total = total - torch.min(ratio * advantage[t], clipped * advantage[t]) + 0.04 * kl
    return total / (2048 * 2)


@pytest.mark.parametrize("on_policy", [True, False])
def test_grpo(backend, on_policy):
    hidden, weight = head(12, 5, 19)
    ids, mask = torch.randint(0, 19, (12,)), torch.tensor([0, 1, 1, 1, 0, 1] * 2)
    advantage = torch.randn(12, dtype=torch.float64)
    current = F.log_softmax(hidden @ weight.T, 1).gather(1, ids[:, None]).squeeze(1)
    ref = current.detach() + 0.3 * torch.randn(12, dtype=torch.float64)
    old = None if on_policy else current.detach() + 0.5 * torch.randn(12, dtype=torch.float64)
    result = grpo_loss(
        hidden, weight, torch.where(mask == 1, ids, -1), advantage, mask=mask, old_logprob=old,
        ref_logprob=ref, normalizer=2048.0 * 2, backend=backend)  # fmt: skip
    truth = released_objective(current, old, ref, advantage, mask)
    check(result.loss, truth, (hidden, weight), 1e-11)

    keep = mask == 1
    difference = (ref - current)[keep].detach()
    full = F.log_softmax(hidden @ weight.T, 1).detach()[keep]
    ratio = torch.ones(1) if on_policy else torch.exp(current - old)[keep].detach()
    rising = advantage[keep] > 0
    outside = (rising & (ratio > 1.28)) | (~rising & (ratio < 0.8))
    assert result.kl.item() == pytest.approx((difference.exp() - difference - 1).mean().item())
    assert result.entropy.item() == pytest.approx(-(full.exp() * full).sum(1).mean().item())
    assert result.clip_fraction.item() == pytest.approx(outside.double().mean().item())
    assert not (result.kl.requires_grad or result.entropy.requires_grad)


def test_grpo_without_reference_or_tokens(backend):
    hidden, weight = head(5, 3, 7)
    ids = torch.randint(0, 7, (5,))
    advantage = torch.ones(5, dtype=torch.float64)
    plain = grpo_loss(
        hidden,
        weight,
        ids,
        advantage,
        mask=torch.ones(5),
        beta=9.0,
        normalizer=1.0,
        backend=backend,
    )
    assert plain.loss.item() == pytest.approx(-5.0) and plain.kl.item() == 0.0
    empty = grpo_loss(hidden, weight, ids, advantage, mask=torch.zeros(5), backend=backend)
    assert [value.item() for value in empty] == [0.0] * 4
    assert all((grad == 0).all() for grad in torch.autograd.grad(empty.loss, (hidden, weight)))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_that_counts_is_zero(backend, gradients, rows):
    """With and without gradients: a trainer's evaluation meets a batch that is masked whole."""
    hidden, weight = (
        each.requires_grad_(gradients) for each in head(max(rows, 1), 3, 7, torch.float32)
    )
    hidden, ids, none = (
        hidden[:rows],
        torch.zeros(rows, dtype=torch.int64),
        torch.full((rows,), -100),
    )
    with torch.set_grad_enabled(gradients):
        for reduction in ("mean", "sum"):
            loss = linear_cross_entropy(hidden, weight, none, reduction=reduction, backend=backend)
            assert loss.item() == 0.0
        losses = linear_cross_entropy(hidden, weight, none, reduction="none", backend=backend)
        assert losses.tolist() == [0.0] * rows
        anything = torch.full((rows,), torch.nan)
        weighted, _ = linear_cross_entropy(
            hidden, weight, none, row_weight=anything, reduction="sum", backend=backend
        )
        assert weighted.item() == 0.0
        if gradients and rows:
            made = torch.autograd.grad(weighted, (hidden, weight), retain_graph=True)
            assert all((grad == 0).all() for grad in made)
        mask = torch.zeros(rows)
        assert (
            linear_logprob(hidden, weight, ids, mask=mask, backend=backend).tolist() == [0.0] * rows
        )
        found = grpo_loss(hidden, weight, ids, torch.ones(rows), mask=mask, backend=backend)
        assert [value.item() for value in found] == [0.0] * 4


def test_gradcheck(backend):
    hidden, weight = head(4, 3, 6)
    ids, mask = torch.tensor([1, 5, 0, 2]), torch.tensor([1, 1, 0, 1])
    advantage = torch.tensor([1.0, -2.0, 0.5, 0.3], dtype=torch.float64)
    with torch.no_grad():
        near = linear_logprob(hidden, weight, ids, backend=backend) + 0.05
    torch.autograd.gradcheck(
        lambda h, w: (
            grpo_loss(
                h,
                w,
                ids,
                advantage,
                mask=mask,
                old_logprob=near,
                ref_logprob=near - 0.2,
                normalizer=3.0,
                backend=backend,
            ).loss
        ),
        (hidden, weight),
    )


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_only_needed_gradients_are_made(backend, frozen):
    hidden, weight = head(5, 3, 7)
    full = torch.autograd.grad(run_all(hidden, weight, backend), (hidden, weight))
    parts = {"hidden": hidden, "weight": weight}
    parts[frozen] = parts[frozen].detach()
    kept = [name for name in parts if name != frozen][0]
    (grad,) = torch.autograd.grad(run_all(*parts.values(), backend), parts[kept])
    assert torch.allclose(grad, full[kept == "weight"], rtol=1e-12)


def run_all(hidden, weight, backend):
    ids = torch.arange(5)
    grpo = grpo_loss(hidden, weight, ids, ids.double(), mask=ids > 0, backend=backend).loss
    logprob = linear_logprob(hidden, weight, ids, backend=backend).sum()
    return linear_cross_entropy(hidden, weight, ids, backend=backend) + logprob + 2048 * grpo


BAD = {
    "hidden has shape": lambda h, w, y: linear_cross_entropy(h[0], w, y),
    "weight has shape": lambda h, w, y: linear_cross_entropy(h, w[:, :2], y),
    "target has shape": lambda h, w, y: linear_cross_entropy(h, w, y[:2]),
    "target holds 7": lambda h, w, y: linear_cross_entropy(h, w, y + 7),
    "ids holds 7": lambda h, w, y: linear_logprob(h, w, y + 7),
    "temperature": lambda h, w, y: linear_logprob(h, w, y, temperature=0.0),
    "mask is a NoneType": lambda h, w, y: grpo_loss(h, w, y, y.float(), mask=None),
    "advantage has shape": lambda h, w, y: grpo_loss(h, w, y, torch.ones(2), mask=y),
    "clip": lambda h, w, y: grpo_loss(h, w, y, y.float(), mask=y, clip=(0.2, -0.1)),
    "normalizer": lambda h, w, y: grpo_loss(h, w, y, y.float(), mask=y, normalizer=0),
    "backend 'triton' cannot run": lambda h, w, y: linear_cross_entropy(h, w, y, backend="triton"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        BAD[message](torch.randn(4, 3), torch.randn(7, 3), torch.zeros(4, dtype=torch.long))
