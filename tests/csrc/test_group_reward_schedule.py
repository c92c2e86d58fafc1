"""The group_reward kernel's phases, executed on the CPU, against the reference in float64.

Blocks and workers run in a shuffled order, with any number of blocks; scratch memory holds garbage.
"""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umer1_kernels import distributed, rollout_groups
from umer1_kernels.backends.cuda.reward import rewards
from umer1_kernels.reference.reward import group_reward
from umer1_kernels.rollout_groups import KINDS

NAMES = ("reward", "advantage", "rank", "gap")


def pointer(tensor):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def emulate(library, query, target, kind, valid=(None, None), own=None, threshold=None, blocks=132):
    """{name: [2, pairs, G]}, and whether similarities were kept on chip. `own`: (first pair, pairs)."""
    pairs, size, dim = query.shape
    first, count = own or (0, pairs)
    query, target = query.float().contiguous(), target.float().contiguous()
    output = torch.full((4, 2, count, size), float("nan"))
    integers = (KINDS.index(kind), pairs * size, size, dim, first * size, count * size, blocks, 7)
    kept = library.group_reward(
        pointer(query), pointer(target), *map(pointer, valid), pointer(threshold), *integers,
        pointer(output),
    )  # fmt: skip
    return dict(zip(NAMES, output)), bool(kept)


def schedule(library, candidates, size, count):
    """Tiles down and across a task, tasks, parts of a query's sums, of a target's."""
    found = (ctypes.c_int * 5)()
    library.group_reward_schedule(candidates, size, count, found)
    return list(found)


def truth(query, target, kind, valid=(None, None)):
    # a threshold found in float32 can tie with similarities that one found in float64 does not
    dtype = torch.float32 if kind == "adaptive_threshold" else torch.float64
    query, target = query.to(dtype), target.to(dtype)
    result = group_reward(query, target, query_valid=valid[0], target_valid=valid[1], kind=kind)
    return {
        "reward": torch.stack([result.query_reward, result.target_reward]),
        "advantage": torch.stack([result.query_advantage, result.target_advantage]),
        "rank": result.rank,
        "gap": result.gap,
    }


def check(got, wanted, own=slice(None), atol=2e-6):
    for name in NAMES:
        expected = wanted[name][:, own].float()
        # a deviation near 0 magnifies the rounding of rewards
        allowed = 1e-3 if name == "advantage" else atol
        torch.testing.assert_close(got[name], expected, atol=allowed, rtol=1e-5, msg=name)


def rollouts(pairs, size, dim):
    """Unit vectors whose ranks differ, with no two similarities nearer than rounding."""
    centre = torch.randn(pairs, 1, dim)
    return [F.normalize(centre + 0.9 * torch.randn(pairs, size, dim), dim=2) for _ in range(2)]


def on_a_grid(pairs, size, dim):
    """Multiples of 1/4: similarities are exact, and many of them tie."""
    return [torch.randint(-2, 3, (pairs, size, dim)) / 2 for _ in range(2)]


@pytest.fixture(scope="module")
def library(compiled):
    return compiled("group_reward")


@pytest.mark.parametrize("kind", KINDS)
def test_the_headline_case(library, kind):
    query, target = rollouts(16, 8, 192)
    got, kept = emulate(library, query, target, kind, blocks=128)
    assert kept
    check(got, truth(query, target, kind))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_shape_with_ties_and_invalid_rollouts(library, data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    pairs, size = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([1, 2, 3, 5, 8, 13, 32]))
    query, target = on_a_grid(pairs, size, data.draw(st.sampled_from([1, 3, 4, 9])))
    share = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    valid = [torch.rand(pairs, size) >= share for _ in range(2)] if share else [None, None]
    kind = data.draw(st.sampled_from(KINDS))
    blocks = data.draw(st.sampled_from([1, 2, 7, 132]))
    got, _ = emulate(library, query, target, kind, valid, blocks=blocks)
    check(got, truth(query, target, kind, valid))


@pytest.mark.parametrize("kind", ["rank_gap", "adaptive_threshold"])
def test_too_many_similarities_to_keep(library, kind):
    """One block, 110 tiles: what phase 1 made is made again in phase 2."""
    query, target = on_a_grid(11, 10, 7)
    valid = [torch.rand(11, 10) > 0.1 for _ in range(2)]
    got, kept = emulate(library, query, target, kind, valid, blocks=1)
    assert not kept
    check(got, truth(query, target, kind, valid))


@pytest.mark.parametrize("kept", [True, False])
def test_tasks_of_many_tiles(library, kept):
    """776 rollouts: tasks of 2 x 4 tiles, the last ones not full."""
    assert schedule(library, 776, 8, 776)[:2] == [2, 4]
    query, target = on_a_grid(97, 8, 5)
    valid = [torch.rand(97, 8) > 0.1 for _ in range(2)]
    got, keeps = emulate(library, query, target, "rank_gap", valid, blocks=132 if kept else 3)
    assert keeps == kept
    check(got, truth(query, target, "rank_gap", valid))


@pytest.mark.parametrize("own", [(0, 2), (2, 3), (5, 1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_own_pairs_among_all_processes(library, kind, own):
    """Hazards of the second region: other queries count for own targets, and only there."""
    query, target = on_a_grid(6, 5, 3)
    valid = [torch.rand(6, 5) > 0.2 for _ in range(2)]
    threshold = None
    if kind == "adaptive_threshold":
        threshold = rollout_groups.middle_of(query, valid[0], target, valid[1])
    for blocks in (1, 50):
        got, _ = emulate(library, query, target, kind, valid, own, threshold, blocks)
        check(got, truth(query, target, kind, valid), slice(own[0], sum(own)))


def test_depth_beyond_one_step_and_not_a_multiple_of_anything(library):
    for dim in (127, 512, 1537):
        query, target = rollouts(3, 4, dim)
        got, _ = emulate(library, query, target, "rank_gap")
        check(got, truth(query, target, "rank_gap"))


def test_the_number_of_blocks_changes_no_bit(library):
    query, target = rollouts(9, 7, 40)
    results = [emulate(library, query, target, "rank_gap", blocks=b)[0] for b in (1, 5, 132)]
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in NAMES)


def test_what_an_invalid_rollout_holds_is_never_read(library):
    query, target = rollouts(4, 3, 20)
    valid = [torch.rand(4, 3) > 0.3 for _ in range(2)]
    clean, _ = emulate(library, query, target, "adaptive_threshold", valid)
    bad = [
        side.masked_fill(~flags[..., None], float("nan"))
        for side, flags in zip((query, target), valid)
    ]
    poisoned, _ = emulate(library, *bad, "adaptive_threshold", valid)
    assert all(torch.equal(clean[name], poisoned[name]) for name in NAMES)


def test_tasks_grow_with_the_batch(library):
    assert schedule(library, 128, 8, 128) == [1, 1, 128, 16, 8]
    rows, columns, tasks, *_ = schedule(library, 1024, 8, 1024)
    assert rows * columns > 1 and 512 <= tasks <= 1024
    assert schedule(library, 16384, 32, 16384) == [8, 16, 128 * 128, 128, 128]
    # one of eight processes
    assert schedule(library, 1024, 8, 128)[2] <= 1024


@pytest.fixture
def operator(library):
    """The operator on the CPU, by the emulation."""

    def run(query, target, query_valid, target_valid, threshold, first, pairs, kind):
        valid, own = (query_valid, target_valid), (first, pairs)
        got, _ = emulate(library, query, target, KINDS[kind], valid, own, threshold)
        return tuple(got[name] for name in NAMES)

    with torch.library._scoped_library("umer1_kernels", "IMPL") as registration:
        registration.impl("group_reward_from_vectors", run, "CPU")
        yield


def stacked(result):
    pairs = (result.query_reward, result.target_reward)
    advantages = (result.query_advantage, result.target_advantage)
    return dict(zip(NAMES, (torch.stack(pairs), torch.stack(advantages), *result[4:])))


@pytest.mark.parametrize("kind", KINDS)
def test_what_python_makes_of_it(operator, kind):
    query, target = on_a_grid(5, 4, 6)
    valid = [torch.rand(5, 4) > 0.2, None]
    got = rewards(query.requires_grad_(), target, *valid, kind, None)
    check(stacked(got), truth(query.detach(), target, kind, valid))


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_gathers_what_the_others_have(operator, monkeypatch, kind):
    """The second of three processes, which has no flags while others do."""
    query, target = on_a_grid(6, 4, 6)
    valid = [torch.rand(6, 4) > 0.3 for _ in range(2)]
    valid[0][2:4] = True
    wanted = truth(query, target, kind, valid)
    own = [value[2:4] for value in (query, target, *valid)]
    whole = dict(zip(range(4), (query, target, *valid)))

    def gather(value, group):
        [number] = [n for n in whole if torch.equal(own[n], value)]
        return whole.pop(number)

    monkeypatch.setattr(distributed, "rank_and_size", lambda group: (1, 3))
    monkeypatch.setattr(distributed, "gather_values", gather)
    got = rewards(own[0], own[1], None, own[3], kind, object())
    check(stacked(got), wanted, slice(2, 4))
