"""On a GPU: gather_hidden, its gradient and the step of GenerationGather by our own kernels.

`-k sanitize` is for compute-sanitizer: every kernel once, at awkward shapes.
"""

import pytest
import torch
import torch.nn.functional as F
from built import needs_cuda_kernels

from umer1_kernels import GenerationGather, gather_hidden

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    needs_cuda_kernels,
]
TOKEN = 151657
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# of a vector and of a gradient
TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (1e-6, 1e-2),
    torch.float16: (1e-6, 2e-3),
}


def batch(lengths, size, dtype, share=0.02):
    """Packed states that require a gradient, ids with some tokens, offsets."""
    total = sum(lengths)
    hidden = torch.randn(total, size, device="cuda", dtype=dtype).requires_grad_()
    ids = torch.where(torch.rand(total, device="cuda") < share, TOKEN, 5)
    offsets = torch.tensor([0, *lengths], dtype=torch.int32, device="cuda").cumsum(0)
    return hidden, ids, offsets.int()


def both(hidden, ids, upstream=None, **options):
    """(vectors, index, gradient) of ours, and of the reference in float64."""
    found = []
    wide = hidden.detach().double().requires_grad_()
    for states, backend in ((hidden, "cuda"), (wide, "reference")):
        result = gather_hidden(states, ids, TOKEN, backend=backend, **options)
        grad = torch.ones_like(result.vectors) if upstream is None else upstream
        gradient = torch.autograd.grad(result.vectors, states, grad.to(result.vectors.dtype))[0]
        found.append((result.vectors, result.index, gradient))
    return found


def check(found, dtype):
    (vectors, index, gradient), (wanted, place, wanted_gradient) = found
    assert torch.equal(index, place)
    assert vectors.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    near, near_gradient = TOLERANCE[dtype]
    torch.testing.assert_close(vectors.double(), wanted, atol=near, rtol=near)
    torch.testing.assert_close(
        gradient.double(), wanted_gradient, atol=near_gradient, rtol=near_gradient
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("occurrence", ["last", "first"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [1536, 33, 8200])
def test_packed_against_float64(poisoned_memory, dtype, occurrence, normalize, size):
    hidden, ids, offsets = batch([7, 1, 1300, 0, 300, 2049], size, dtype)
    options = {"cu_seqlens": offsets, "occurrence": occurrence, "normalize": normalize}
    upstream = torch.randn(6, size, device="cuda", dtype=torch.float64)
    check(both(hidden, ids, upstream, **options), dtype)
    check(both(hidden, ids, upstream, start=torch.full((6,), 3, device="cuda"), **options), dtype)


def test_padded_with_lengths(poisoned_memory):
    hidden = torch.randn(5, 40, 64, device="cuda", dtype=torch.bfloat16)
    ids = torch.where(torch.rand(5, 40, device="cuda") < 0.1, TOKEN, 1)
    lengths = torch.tensor([40, 0, 17, 1, 33], device="cuda")
    hidden[1], hidden[2, 17:] = float("nan"), float("nan")
    check(both(hidden.requires_grad_(), ids, lengths=lengths), torch.bfloat16)


def test_strided_states_and_expanded_gradients():
    wide = torch.randn(300, 80, device="cuda")
    ids = torch.where(torch.rand(300, device="cuda") < 0.1, TOKEN, 1)
    offsets = torch.tensor([0, 100, 300], device="cuda")
    for view in (wide[:, 5:37], wide[:, 8:40], wide[:, ::2]):
        hidden = view.detach().requires_grad_()
        upstream = torch.ones((), dtype=torch.float64, device="cuda").expand(2, hidden.shape[1])
        check(both(hidden, ids, upstream, cu_seqlens=offsets), torch.float32)


def test_offsets_beyond_the_rows_read_nothing_there():
    hidden, ids, _ = batch([50], 16, torch.float32, share=0.2)
    vectors, index = gather_hidden(
        hidden, ids, TOKEN, cu_seqlens=torch.tensor([0, 900], device="cuda"), backend="cuda"
    )
    expected = gather_hidden(
        hidden, ids, TOKEN, cu_seqlens=torch.tensor([0, 50], device="cuda"), backend="reference"
    )
    assert torch.equal(index, expected.index)
    torch.testing.assert_close(vectors, expected.vectors)


def test_zero_and_nan_states():
    hidden = torch.zeros(2, 1, 24, device="cuda")
    hidden[1], hidden[1, 0, 7] = 1.0, float("nan")
    ids = torch.full((2, 1), TOKEN, device="cuda")
    hidden.requires_grad_()
    vectors, _ = gather_hidden(hidden, ids, TOKEN, backend="cuda")
    assert (vectors[0] == 0).all() and vectors[1].isnan().all()
    (gradient,) = torch.autograd.grad(vectors.sum(), hidden)
    assert gradient[0].isfinite().all()


def test_repeats_bitwise_never_waits_and_replays_in_a_graph():
    hidden, ids, offsets = batch([100, 200, 50], 1536, torch.bfloat16)
    ids[[50, 250, 320]] = TOKEN
    hidden = hidden.detach()
    upstream = torch.randn(3, 1536, device="cuda")

    def step():
        states = hidden.detach().requires_grad_()
        vectors, index = gather_hidden(states, ids, TOKEN, cu_seqlens=offsets, backend="cuda")
        return vectors, index, torch.autograd.grad(vectors, states, upstream)[0]

    first = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(one, other) for one, other in zip(first, again))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    hidden.copy_(torch.randn_like(hidden)), ids.copy_(ids.roll(1))
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(results, step()))


def test_compiled_equals_eager_bitwise():
    hidden, ids, offsets = batch([20, 30], 64, torch.bfloat16, share=0.2)

    def run(states, ids, offsets):
        return gather_hidden(states, ids, TOKEN, cu_seqlens=offsets, backend="cuda")

    torch._dynamo.reset()
    for one, other in zip(
        torch.compile(run, fullgraph=True)(hidden, ids, offsets), run(hidden, ids, offsets)
    ):
        assert torch.equal(one, other)


def slots(size, dtype, count=200, all_slots=256):
    """One step: states, ids, slots in any order with some rows without one, flags."""
    order = torch.randperm(all_slots, device="cuda")[:count]
    order[::7] = -1
    hidden = torch.randn(count, size, device="cuda").to(dtype)
    ids = torch.where(torch.rand(count, device="cuda") < 0.5, TOKEN, 1)
    return hidden, ids, order, torch.rand(count, device="cuda") < 0.8


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [1536, 3584, 33])
def test_generation_step(dtype, normalize, size):
    ours, wanted = (
        GenerationGather(256, size, TOKEN, device="cuda", normalize=normalize, backend=backend)
        for backend in ("cuda", "reference")
    )
    for _ in range(3):
        step = slots(size, dtype)
        ours.step_(*step)
        wanted.step_(*step)
        assert torch.equal(ours.hit, wanted.hit)
        torch.testing.assert_close(ours.vectors, wanted.vectors, atol=1e-6, rtol=1e-6)
        gone = torch.tensor([3, 200], device="cuda")
        ours.reset_(gone), wanted.reset_(gone)


def test_generation_step_in_a_graph_without_a_sync():
    gather = GenerationGather(256, 1536, TOKEN, device="cuda", backend="cuda")
    hidden, ids, order, generated = slots(1536, torch.bfloat16, 256)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gather.step_(hidden, ids, order, generated)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gather.step_(hidden, ids, order, generated)
    gather.reset_(torch.arange(256, device="cuda"))
    new = slots(1536, torch.bfloat16, 256)
    for place, value in zip((hidden, ids, order, generated), new):
        place.copy_(value)
    graph.replay()
    taken = (new[1] == TOKEN) & new[3] & (new[2] >= 0)
    expected = F.normalize(new[0][taken].float(), dim=1)
    torch.testing.assert_close(gather.vectors[new[2][taken]], expected, atol=1e-6, rtol=1e-6)
    assert int(gather.hit.sum()) == int(taken.sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sanitize_gather(dtype):
    for size in (1, 33, 64, 1032):
        hidden, ids, offsets = batch([7, 1, 1030, 0], size, dtype, share=0.1)
        for occurrence in ("last", "first"):
            vectors, _ = gather_hidden(
                hidden, ids, TOKEN, cu_seqlens=offsets, occurrence=occurrence, backend="cuda"
            )
            torch.autograd.grad(vectors.sum(), hidden)
        gather = GenerationGather(9, size, TOKEN, device="cuda", backend="cuda")
        gather.step_(*slots(size, dtype, 7, 9))
    torch.cuda.synchronize()
