"""On a GPU: how the small dual InfoNCE kernel runs: graphs, streams, repeats, compiled code, what it refuses.

`-k sanitize` is for compute-sanitizer: every kernel once, at awkward shapes.
"""

import pytest
import torch
from built import needs_cuda_kernels
from cuda_dual import engines, fits, native, vectors

import umer1_kernels as kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    needs_cuda_kernels,
]


def test_two_launches_are_bitwise_one():
    """The gradient made in the backward is that of value_and_grad, and every call repeats it."""
    gen, disc = vectors(513, 600, 712)
    scale = torch.tensor(30.0, device="cuda")
    whole = kernels.dual_info_nce_value_and_grad(gen, disc, align=0.2, scale=scale, backend="cuda")
    leaves = [side.requires_grad_() for side in (*gen, *disc)]
    leaf = scale.clone().requires_grad_()
    for _ in range(5):
        result = kernels.dual_info_nce(
            leaves[:2], leaves[2:], align=0.2, scale=leaf, backend="cuda"
        )
        grads = torch.autograd.grad(result.loss, [*leaves, leaf])
        assert torch.equal(result.loss.detach(), whole.result.loss)
        for one, other in zip(grads, (*whole.gen, *whole.disc, whole.scale)):
            assert torch.equal(one, other)
    single = kernels.info_nce_value_and_grad(*gen, scale=scale, backend="cuda")
    assert torch.equal(single.loss, whole.result.gen)


def test_never_waits_for_the_device():
    gen, disc = vectors(200, 200, 64)
    leaves = [side.requires_grad_() for side in (*gen, *disc)]
    scale = torch.tensor(20.0, device="cuda", requires_grad=True)
    step = lambda: torch.autograd.grad(
        kernels.dual_info_nce(leaves[:2], leaves[2:], scale=scale, backend="cuda").loss,
        [*leaves, scale],
    )
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        kernels.dual_info_nce_value_and_grad(gen, disc, backend="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("way", ["step", "value_and_grad"])
def test_a_captured_graph_replays_other_vectors(way):
    gen, disc = vectors(400, 500, 264)
    leaves = [side.requires_grad_() for side in (*gen, *disc)]

    def step():
        if way == "value_and_grad":
            found = kernels.dual_info_nce_value_and_grad(gen, disc, backend="cuda")
            return found.result.loss, (*found.gen, *found.disc)
        result = kernels.dual_info_nce(leaves[:2], leaves[2:], backend="cuda")
        return result.loss.detach(), torch.autograd.grad(result.loss, leaves)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, grads = step()
    with torch.no_grad():
        for mine, other in zip((*gen, *disc), sum(map(list, vectors(400, 500, 264)), [])):
            mine.copy_(other)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    replayed = loss.clone(), [grad.clone() for grad in grads]
    expected = step()
    assert torch.equal(replayed[0], expected[0])
    assert all(torch.equal(one, other) for one, other in zip(replayed[1], expected[1]))


def test_on_another_stream_and_on_strided_vectors():
    gen, disc = vectors(130, 140, 64)
    expected = native(gen, disc)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = native(gen, disc)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(one, other) for one, other in zip(expected, got))
    wide = torch.zeros(130, 200, dtype=torch.bfloat16, device="cuda")
    for begin in (8, 3):  # on 16 bytes, and not
        view = wide[:, begin : begin + 64]
        view.copy_(gen[0])
        got = native((view, gen[1]), disc)
        assert all(torch.equal(one, other) for one, other in zip(expected, got))
    doubled = torch.zeros(130, 128, dtype=torch.bfloat16, device="cuda")[:, ::2]
    doubled.copy_(gen[0])
    assert torch.equal(native((doubled, gen[1]), disc)[0], expected[0])


def test_compiled_equals_eager_bitwise():
    torch._dynamo.reset()
    gen, disc = vectors(140, 180, 48)
    leaves = [side.requires_grad_() for side in (*gen, *disc)]

    def loss(*leaves):
        return kernels.dual_info_nce(leaves[:2], leaves[2:], align=0.3, backend="cuda").loss

    runs = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        value = function(*leaves)
        runs.append((value.detach(), *torch.autograd.grad(value, leaves)))
    assert all(torch.equal(one, other) for one, other in zip(*runs))


def test_operators_are_well_formed():
    gen, disc = vectors(5, 7, 16)
    for tensor in (*gen, *disc):
        tensor.requires_grad_()
    scale = torch.tensor(9.0, device="cuda", requires_grad=True)
    options = (0.0, None, 0, None, None, None, True, True, False, False)
    operators = torch.ops.umer1_kernels
    operator = operators.small_dual_info_nce.default
    for reduction, make in ((0, 1), (2, 0)):
        torch.library.opcheck(
            operator, (*gen, *disc, scale, *options, reduction, True, 0.5, make, 0)
        )
    detached = [side.detach() for side in (*gen, *disc)]
    kept = operator(*detached, None, *options, 0, False, 0.0, 1, 0)
    one = torch.ones((), device="cuda")
    torch.library.opcheck(
        operators.small_dual_info_nce_gradient.default,
        (*detached, kept[6], kept[5], one, None, one, None, False, 0.0, 13, 0),
    )


def test_what_it_does_not_take_is_refused():
    (query, target), disc = vectors(4, 6, 16)
    loss = lambda *inputs, **options: kernels.info_nce(*inputs, backend="cuda", **options)
    with pytest.raises(ValueError, match="it takes bfloat16, not torch.float32"):
        loss(query.float(), target.float())
    with pytest.raises(ValueError, match="multiples of 8, not 12"):
        loss(query[:, :12], target[:, :12])
    with pytest.raises(ValueError, match="up to 1408 queries and targets, not 1409"):
        loss(query, torch.zeros(1409, 16, dtype=torch.bfloat16, device="cuda"))
    with pytest.raises(ValueError, match="not q2q"):
        loss(query, target, directions=("q2q",))
    with pytest.raises(ValueError, match="labels with q2t alone"):
        loss(query, target, labels=torch.arange(4, device="cuda"))
    many = [side.repeat(352, 1)[:1408] for side in (*disc, *disc)]
    if not fits(1408, 1408, 4):
        with pytest.raises(ValueError, match="484 tiles of 128 x 128, and .* keep"):
            kernels.dual_info_nce(many[:2], many[2:], align=0.5, backend="cuda")
        with pytest.raises(RuntimeError, match="484 tiles of 128 x 128, more than"):
            native(many[:2], many[2:], align=0.5)
    with pytest.raises(
        RuntimeError, match="gen_query has dimension 12; the kernel takes multiples"
    ):
        native((query[:, :12], target[:, :12]), disc)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensors_counts():
    gen, disc = vectors(40, 50, 32)
    moved = [tuple(side.to("cuda:1") for side in pair) for pair in (gen, disc)]
    for one, other in zip(native(gen, disc), native(*moved)):
        assert torch.equal(one, other.to("cuda:0"))


@pytest.mark.parametrize("engine", engines(), ids=["mma", "wgmma"][: len(engines())])
@pytest.mark.parametrize("align", [0.0, 0.3])
def test_sanitize_dual_info_nce(engine, align):
    # large tiles of gradients, small ones, two tiles of logits a block
    for shape in ((3, 5, 8), (129, 140, 72), (300, 260, 1608)):
        gen, disc = vectors(shape[0], max(shape[:2]), shape[2])
        native(gen, disc, engine=engine, align=align)
        kept = native(gen, disc, engine=engine, align=align, make=1)
        torch.ops.umer1_kernels.small_dual_info_nce_gradient(
            *gen, *disc, kept[6], kept[5], torch.ones((), device="cuda"), None, None, None,
            bool(align), align, 15, engine,
        )  # fmt: skip
    if not align and fits(1408, 1408, 2):
        gen, disc = vectors(1408, 1408, 64)
        native(gen, disc, engine=engine)
    torch.cuda.synchronize()


def test_sanitize_options():
    gen, disc = vectors(130, 140, 24)
    ids = torch.arange(140, device="cuda") % 9
    leaves = [side.requires_grad_() for side in (*gen, *disc)]
    for options in (
        {"query_ids": ids[:130], "target_ids": ids, "partition": "joint", "align": 0.5},
        {"labels": ids[:130], "directions": ("q2t",), "reduction": "none"},
    ):
        result = kernels.dual_info_nce(leaves[:2], leaves[2:], backend="cuda", **options)
        torch.autograd.grad(result.loss.sum() + result.gen.sum(), leaves)
    torch.cuda.synchronize()
