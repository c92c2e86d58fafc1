"""The public functions on the Triton backend, interpreted, against the float64 reference.

The plans are those of a GPU: rows compacted on the device, chunks, logits made twice.
"""

import pytest
import torch
import torch.nn.functional as F

import umer1_kernels as kernels
from umer1_kernels import plans
from umer1_kernels.backends.triton import tables


@pytest.fixture(params=["whole", "chunks"], autouse=True)
def plan(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setattr(plans, "KEPT_BYTES", {"cpu": 0})
        monkeypatch.setattr(plans, "CHUNK_ROWS", 8)
        monkeypatch.setattr(plans, "CHUNK_BYTES", {"cpu": 0})
        monkeypatch.setattr(plans, "one_way", lambda *shape: plans.ROW_CHUNKS)
        monkeypatch.setattr(tables, "CHUNK_LOGITS", 1)
        monkeypatch.setattr(tables, "CHUNK_ROWS", 8)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1).requires_grad_()


def agree(loss_of, *inputs, tolerance=2e-5):
    """Values and gradients are the reference's in float64."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    got, truth = loss_of(*inputs, backend="triton"), loss_of(*exact, backend="reference")
    upstream = torch.linspace(0.5, 2.0, got.numel()).view(got.shape)
    grads = torch.autograd.grad(got, inputs, upstream)
    truths = torch.autograd.grad(truth, exact, upstream.double())
    for one, other in zip((got, *grads), (truth, *truths)):
        error = (one.double() - other).abs().max().item()
        assert error <= tolerance * max(1.0, other.abs().max().item())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"directions": ("q2t",)},
        {"directions": ("q2t", "t2q", "q2q", "t2t"), "partition": "joint"},
        {"reduction": "none", "partition": "joint"},
        {"query_ids": torch.arange(19) % 7, "target_ids": torch.arange(33) % 7},
        {"labels": torch.arange(19) % 5, "row_weight": torch.arange(19.0)},
    ],
    ids=lambda options: "+".join(options) or "default",
)
def test_info_nce(options):
    loss = lambda q, t, backend: kernels.info_nce(q, t, scale=20.0, backend=backend, **options)
    agree(loss, unit(19, 12), unit(33, 12))


@pytest.mark.parametrize("live", ["some", "none", "all"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_cross_entropy(reduction, live):
    hidden = torch.randn(21, 10, requires_grad=True)
    weight = torch.randn(45, 10, requires_grad=True)
    target = torch.randint(0, 45, (21,))
    target[{"some": slice(0, None, 3), "none": slice(None), "all": slice(0)}[live]] = -100
    loss = lambda h, w, backend: kernels.linear_cross_entropy(
        h, w, target, reduction=reduction, backend=backend
    )
    agree(loss, hidden, weight)


@pytest.mark.parametrize("part", ["logprob", "entropy", "grpo"])
def test_policy_losses(part):
    hidden = torch.randn(21, 10, requires_grad=True)
    weight = torch.randn(45, 10, requires_grad=True)
    ids, mask = torch.randint(0, 45, (21,)), torch.arange(21) % 4 != 0
    advantage, old = torch.randn(21), torch.randn(21) - 4.0

    def loss(h, w, backend):
        if part == "grpo":
            return kernels.grpo_loss(
                h, w, ids, advantage, mask=mask, old_logprob=old, ref_logprob=old - 0.3,
                normalizer=9.0, temperature=0.8, backend=backend,
            ).loss  # fmt: skip
        both = kernels.linear_logprob(
            h, w, ids, mask=mask, temperature=0.8, return_entropy=True, backend=backend
        )
        return both[part == "entropy"]

    agree(loss, hidden, weight)


def test_reward_and_gather():
    query, target = unit(5, 3, 8).detach(), unit(5, 3, 8).detach()
    for kind in ("rank_gap", "adaptive_threshold"):
        got, truth = (
            kernels.group_reward(query, target, kind=kind, backend=name)
            for name in ("triton", "reference")
        )
        assert torch.allclose(got.query_advantage, truth.query_advantage, atol=1e-4)
    ids = torch.tensor([[1, 2, 1], [2, 2, 0]])
    agree(
        lambda h, backend: kernels.gather_hidden(h, ids, 1, backend=backend).vectors,
        torch.randn(2, 3, 8, requires_grad=True),
    )
    gathers = [kernels.GenerationGather(4, 8, 1, backend=name) for name in ("triton", "reference")]
    for gather in gathers:
        rows, token = torch.arange(24.0).view(3, 8), torch.tensor([1, 1, 2])
        gather.step_(rows, token, torch.tensor([2, 0, 1]), torch.tensor([True, False, True]))
    assert torch.allclose(gathers[0].vectors, gathers[1].vectors)
    assert torch.equal(gathers[0].hit, gathers[1].hit)
