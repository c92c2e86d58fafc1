"""On a GPU: group_reward in one launch against the reference in float64.

`-k sanitize` is for compute-sanitizer: every kernel once, at awkward shapes.
"""

import pytest
import torch
import torch.nn.functional as F
from built import needs_cuda_kernels

import umer1_kernels as kernels
from umer1_kernels import rollout_groups
from umer1_kernels.reference.reward import group_reward as reference
from umer1_kernels.rollout_groups import KINDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    needs_cuda_kernels,
]
NAMES = ("query_reward", "target_reward", "query_advantage", "target_advantage", "rank", "gap")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def rollouts(pairs, size, dim, dtype=torch.float32):
    """Unit vectors whose ranks differ."""
    centre = torch.randn(pairs, 1, dim, device="cuda")
    normal = lambda: torch.randn(pairs, size, dim, device="cuda")
    return [F.normalize(centre + 0.9 * normal(), dim=2).to(dtype) for _ in range(2)]


def on_a_grid(pairs, size, dim):
    """Multiples of 1/2: similarities are exact, and many of them tie."""
    return [torch.randint(-2, 3, (pairs, size, dim), device="cuda") / 2 for _ in range(2)]


def flags(pairs, size, share):
    return [torch.rand(pairs, size, device="cuda") >= share for _ in range(2)]


def native(query, target, valid=(None, None), **options):
    return kernels.group_reward(
        query, target, query_valid=valid[0], target_valid=valid[1], backend="cuda", **options
    )


def truth(query, target, valid=(None, None), kind="rank_gap"):
    # a threshold found in float32 can tie with similarities that one found in float64 does not
    dtype = torch.float32 if kind == "adaptive_threshold" else torch.float64
    query, target = query.to(dtype), target.to(dtype)
    return reference(query, target, query_valid=valid[0], target_valid=valid[1], kind=kind)


def check(got, wanted):
    for name, value, expected in zip(NAMES, got, wanted):
        # a deviation near 0 magnifies the rounding of rewards
        allowed = 1e-3 if "advantage" in name else 5e-6
        torch.testing.assert_close(
            value,
            expected.float(),
            atol=allowed,
            rtol=1e-4,
            msg=lambda text, n=name: f"{n}: {text}",
        )


SHAPES = {
    "headline": (16, 8, 1536),
    "one pair": (1, 4, 16),
    "one rollout": (5, 1, 40),
    "odd": (7, 5, 63),
    "a dimension of one": (3, 2, 1),
    "most rollouts": (5, 32, 100),
    "kept in many tiles": (65, 8, 896),
    "not kept": (160, 16, 128),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_against_float64(poisoned_memory, name, kind):
    query, target = rollouts(*SHAPES[name])
    if SHAPES[name][2] == 1:
        query, target = on_a_grid(*SHAPES[name])
    check(native(query, target, kind=kind), truth(query, target, kind=kind))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 1536, 129])
def test_dtypes_give_what_their_float32_values_give(dtype, dim):
    query, target = rollouts(6, 8, dim, dtype)
    narrow, wide = native(query, target), native(query.float(), target.float())
    assert all(torch.equal(one, other) for one, other in zip(narrow, wide))
    check(narrow, truth(query, target))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_ties_and_invalid_rollouts(poisoned_memory, kind, share):
    for shape in ((4, 3, 3), (12, 8, 5), (9, 13, 4), (150, 20, 3)):
        query, target = on_a_grid(*shape)
        valid = flags(*shape[:2], share)
        got = native(query, target, valid, kind=kind)
        check(got, truth(query, target, valid, kind))
        bad = [
            side.masked_fill(~mask[..., None], float("nan"))
            for side, mask in zip((query, target), valid)
        ]
        poisoned = native(*bad, valid, kind=kind)
        assert all(torch.equal(one, other) for one, other in zip(got, poisoned))


def test_many_groups():
    """16384 rollouts a side: similarities would be a GiB, and none of them is stored."""
    query, target = on_a_grid(512, 32, 64)
    native(query[:4], target[:4])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = native(query, target)
    assert torch.cuda.max_memory_allocated() - before < 128 * 2**20
    if torch.cuda.get_device_properties(0).total_memory > 100 * 2**30:
        check(got, reference(query, target))  # in float32: these similarities are exact


@pytest.mark.parametrize("kind", KINDS)
def test_the_own_pairs_among_those_of_all_processes(kind):
    """What each of three processes would call with the gathered vectors."""
    query, target = on_a_grid(12, 5, 7)
    valid = flags(12, 5, 0.2)
    whole = truth(query, target, valid, kind)
    threshold = None
    if kind == "adaptive_threshold":
        threshold = rollout_groups.middle_of(query, valid[0], target, valid[1])
    for first in (0, 4, 8):
        reward, advantage, rank, gap = torch.ops.umer1_kernels.group_reward_from_vectors(
            query, target, *valid, threshold, first, 4, KINDS.index(kind)
        )
        own = slice(first, first + 4)
        expected = (*(value[own] for value in whole[:4]), whole.rank[:, own], whole.gap[:, own])
        check((*reward, *advantage, rank, gap), expected)


def test_strided_and_unaligned_vectors():
    wide = torch.randn(6, 12, 70, device="cuda")
    query, target = wide[:, ::2, 1:65], wide[:, 1::2, 2:66]
    check(native(query, target), truth(query, target))
    flat = torch.randn(4 * 4 * 64 + 1, device="cuda")
    shifted = flat[1:].view(4, 4, 64)  # contiguous, but not on 16 bytes
    check(native(shifted, shifted), truth(shifted, shifted))


def test_repeats_bitwise_and_never_waits_for_the_device():
    query, target = rollouts(40, 8, 256)
    valid = flags(40, 8, 0.1)
    first = native(query, target, valid)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = [native(query, target, valid) for _ in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for other in again:
        assert all(torch.equal(one, two) for one, two in zip(first, other))


def test_a_captured_graph_replays_other_vectors():
    query, target = rollouts(16, 8, 1536)
    valid = flags(16, 8, 0.1)
    native(query, target, valid)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = native(query, target, valid)
    other = rollouts(16, 8, 1536)
    query.copy_(other[0]), target.copy_(other[1]), valid[0].fill_(True)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    check(results, truth(query, target, valid))


def test_on_another_stream():
    query, target = rollouts(16, 8, 512)
    expected = native(query, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = native(query, target)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(one, other) for one, other in zip(got, expected))


def test_compiled_equals_eager_bitwise():
    query, target = rollouts(6, 4, 64)
    valid = flags(6, 4, 0.2)
    torch._dynamo.reset()
    compiled = torch.compile(native, fullgraph=True)
    for one, other in zip(compiled(query, target, valid), native(query, target, valid)):
        assert torch.equal(one, other)


def test_operator_is_well_formed():
    query, target = rollouts(3, 4, 16)
    operator = torch.ops.umer1_kernels.group_reward_from_vectors.default
    torch.library.opcheck(operator, (query, target, *flags(3, 4, 0.2), None, 0, 3, 0))


def test_what_it_does_not_take_is_refused():
    query, target = rollouts(3, 4, 16)
    with pytest.raises(ValueError, match="it takes float32, bfloat16, float16"):
        native(query.double(), target.double())
    with pytest.raises(ValueError, match="up to 32 rollouts per pair, not 33"):
        native(*rollouts(2, 33, 16))
    with pytest.raises(ValueError, match="the inputs are on cpu"):
        native(query.cpu(), target.cpu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_tensors_counts():
    query, target = rollouts(4, 4, 32)
    moved = native(query.to("cuda:1"), target.to("cuda:1"))
    for one, other in zip(native(query, target), moved):
        assert torch.equal(one, other.to("cuda:0"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["rank_gap", "adaptive_threshold"])
def test_sanitize_group_reward(kind, dtype):
    for shape in ((3, 5, 63), (2, 1, 1), (17, 3, 40), (1, 32, 8), (90, 16, 4)):
        query, target = rollouts(*shape, dtype)
        native(query, target, flags(*shape[:2], 0.3), kind=kind)
    query, target = rollouts(9, 3, 20, dtype)
    torch.ops.umer1_kernels.group_reward_from_vectors(query, target, None, None, None, 2, 5, 0)
    torch.cuda.synchronize()
