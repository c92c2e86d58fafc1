"""On a GPU: the public functions with backend="triton" against float64 and the reference."""

import pytest
import torch
import torch.nn.functional as F

import umer1_kernels as kernels

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
GRADIENT_ERROR = {torch.bfloat16: 4e-3, torch.float16: 1e-3, torch.float32: 1e-5}


def unit(count, dim, dtype):
    return F.normalize(torch.randn(count, dim, device="cuda"), dim=1).to(dtype)


def normal(count, dim, dtype, size=1.0):
    return (size * torch.randn(count, dim, device="cuda")).to(dtype)


def agree(loss_of, inputs, loss_error=1e-4) -> None:
    """Loss and gradients against the reference in float64."""
    dtype = inputs[0].dtype
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    got, wanted = loss_of(*given, backend="triton"), loss_of(*exact, backend="reference")
    torch.testing.assert_close(got.double(), wanted, rtol=loss_error, atol=loss_error)
    upstream = torch.linspace(0.5, 2.0, got.numel(), device="cuda").view(got.shape)
    grads = torch.autograd.grad(got, given, upstream)
    truths = torch.autograd.grad(wanted, exact, upstream.double())
    for grad, true in zip(grads, truths):
        assert grad.dtype == dtype
        assert float((grad.double() - true).norm() / true.norm()) <= GRADIENT_ERROR[dtype]


INFO_NCE = {
    "default": {},
    "one way": {"directions": ("q2t",)},
    "joint": {"directions": ("q2t", "t2q", "q2q", "t2t"), "partition": "joint"},
    "rows": {"reduction": "none"},
}


# float16 gradients of 1024 rows' mean lie among its smallest numbers: no promise there
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", INFO_NCE)
@pytest.mark.parametrize("shape", [(100, 199, 896), (1024, 2000, 1536)], ids=str)
def test_info_nce(shape, name, dtype):
    """Vectors of 32 directions, positives at a cosine of 0.7: negatives that are hard."""
    torch.manual_seed(0)
    count, targets, dim = shape
    query = torch.randn(count, 32, device="cuda")
    others = torch.randn(targets, 32, device="cuda")
    others[:count] += query
    spread = torch.randn(32, dim, device="cuda")
    pair = [F.normalize(side @ spread, dim=1).to(dtype) for side in (query, others)]
    options = {"scale": 50.0, **INFO_NCE[name]}
    agree(lambda q, t, **k: kernels.info_nce(q, t, **options, **k), pair)


def test_one_pair_has_no_loss():
    query, target = (unit(1, 64, torch.bfloat16).requires_grad_() for _ in range(2))
    loss = kernels.info_nce(query, target, backend="triton")
    grads = torch.autograd.grad(loss, (query, target))
    assert loss == 0 and all((grad == 0).all() for grad in grads)


# float16 gradients of 500 rows' mean have no bits to spare either
@pytest.mark.parametrize(
    "dtype, reduction",
    [(dtype, "none") for dtype in GRADIENT_ERROR]
    + [(torch.bfloat16, "mean"), (torch.float32, "mean")],
    ids=str,
)
@pytest.mark.parametrize("ignored", [0.0, 0.7, 1.0])
def test_linear_cross_entropy(dtype, reduction, ignored):
    torch.manual_seed(0)
    hidden, weight = normal(500, 256, dtype), normal(8003, 256, dtype, 0.05)
    target = torch.randint(0, 8003, (500,), device="cuda")
    target[torch.rand(500, device="cuda") < ignored] = -100
    loss_of = lambda h, w, **k: kernels.linear_cross_entropy(h, w, target, reduction=reduction, **k)
    if ignored == 1.0:
        hidden.requires_grad_()
        loss = loss_of(hidden, weight, backend="triton").sum()
        assert loss == 0 and (torch.autograd.grad(loss, hidden)[0] == 0).all()
        return
    agree(loss_of, (hidden, weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_logprob_entropy_and_grpo(dtype):
    torch.manual_seed(0)
    hidden, weight = normal(300, 256, dtype), normal(5000, 256, dtype, 0.05)
    ids = torch.randint(0, 5000, (300,), device="cuda")
    mask = torch.rand(300, device="cuda") < 0.4
    both = lambda h, w, **k: torch.stack(
        kernels.linear_logprob(h, w, ids, temperature=0.8, mask=mask, return_entropy=True, **k)
    )
    agree(both, (hidden, weight))
    with torch.no_grad():
        old = kernels.linear_logprob(hidden, weight, ids, mask=mask) + 0.1
    advantage = torch.randn(300, device="cuda")
    extra = {"mask": mask, "old_logprob": old, "ref_logprob": old - 0.2, "normalizer": 100.0}
    agree(
        lambda h, w, **k: kernels.grpo_loss(h, w, ids, advantage, **extra, **k).loss,
        (hidden, weight),
    )


def test_compiled_equals_eager():
    """Means are over powers of two: compiled float32 divisions round otherwise by anything else."""
    query, target = unit(256, 128, torch.bfloat16), unit(512, 128, torch.bfloat16)
    hidden, weight = normal(256, 128, torch.bfloat16), normal(3000, 128, torch.bfloat16, 0.1)
    labels = torch.randint(0, 3000, (256,), device="cuda")

    def losses(query, target, hidden, weight):
        one = kernels.info_nce(query, target, backend="triton")
        return one + kernels.linear_cross_entropy(hidden, weight, labels, backend="triton")

    inputs = [tensor.requires_grad_() for tensor in (query, target, hidden, weight)]
    results = []
    for function in (losses, torch.compile(losses, fullgraph=True)):
        loss = function(*inputs)
        results.append((loss, *torch.autograd.grad(loss, inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*results))


def test_a_training_step_is_captured():
    """Forward and backward in one CUDA graph, with another mask at replay."""
    hidden = normal(256, 128, torch.bfloat16).requires_grad_()
    weight = normal(4096, 128, torch.bfloat16, 0.1).requires_grad_()
    target = torch.randint(0, 4096, (256,), device="cuda")
    step = lambda: torch.autograd.grad(
        kernels.linear_cross_entropy(hidden, weight, target, backend="triton"), (hidden, weight)
    )
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    target[::2] = -100
    graph.replay()
    torch.cuda.synchronize()
    got = [tensor.clone() for tensor in captured]
    assert all(torch.equal(one, other) for one, other in zip(got, step()))


@pytest.mark.parametrize("kind", ["rank_gap", "adaptive_threshold"])
def test_group_reward(kind):
    torch.manual_seed(0)
    query = F.normalize(torch.randn(16, 8, 1536, device="cuda"), dim=2)
    target = F.normalize(query + 0.02 * torch.randn_like(query), dim=2)
    valid = {
        name: torch.rand(16, 8, device="cuda") < 0.9 for name in ("query_valid", "target_valid")
    }
    got, wanted = (
        kernels.group_reward(query, target, kind=kind, backend=backend, **valid)
        for backend in ("triton", "reference")
    )
    for one, other in zip(got, wanted):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("occurrence", ["last", "first"])
def test_gather_hidden(dtype, occurrence):
    hidden = torch.randn(6, 3000, 896, device="cuda", dtype=dtype)
    ids = torch.randint(0, 500, (6, 3000), device="cuda")
    ids[2] = 0
    lengths = torch.tensor([3000, 1, 2999, 1024, 1025, 0], device="cuda")
    results = []
    for backend in ("triton", "reference"):
        states = hidden.clone().requires_grad_()
        found = kernels.gather_hidden(
            states, ids, 7, lengths=lengths, occurrence=occurrence, backend=backend
        )
        upstream = torch.linspace(-1, 1, 896, device="cuda").expand(6, 896)
        results.append((*found, *torch.autograd.grad(found.vectors, states, upstream)))
    assert torch.equal(results[0][1], results[1][1])
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
