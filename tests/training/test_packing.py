"""Packs and microbatches: every item once, capacity kept, the plan of best-fit decreasing, both planners alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1.training import packing
from umer1.training.packing import (
    efficiency,
    plan_microbatches,
    plan_packs,
    planner,
)

try:
    from umer1 import _packing
except ImportError:
    _packing = None
compiled = pytest.mark.skipif(_packing is None, reason="umer1._packing is not built")
HUGE = np.iinfo(np.int64).max
# few distinct values, so that many are equal and many fit exactly; beyond the capacity; 0; and as large as there are
LENGTHS = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 70), st.sampled_from([0, HUGE])), max_size=60)  # fmt: skip
CAPACITY = st.one_of(st.integers(1, 80), st.just(HUGE))


def best_fit_one_by_one(lengths, capacity):
    """The rule itself: one item after the other, every open pack looked at."""
    packs = []  # [room, since when it has had that room, items]
    for moment, item in enumerate(sorted(range(len(lengths)), key=lambda item: -lengths[item])):
        fitting = [pack for pack in packs if pack[0] >= lengths[item]]
        if not fitting:
            packs.append([capacity - lengths[item], moment, [item]])
            continue
        pack = min(fitting, key=lambda pack: pack[:2])
        if lengths[item]:
            pack[:2] = pack[0] - lengths[item], moment
        pack[2].append(item)
    return [items for _, _, items in packs]


@settings(max_examples=150, deadline=None)
@given(LENGTHS, CAPACITY)
def test_packs_are_those_of_best_fit_decreasing(lengths, capacity):
    assert plan_packs(lengths, capacity, backend="numpy") == best_fit_one_by_one(lengths, capacity)


@compiled
@settings(max_examples=150, deadline=None)
@given(LENGTHS, CAPACITY)
def test_both_planners_make_the_same_packs(lengths, capacity):
    native = plan_packs(lengths, capacity, backend="compiled")
    assert native == plan_packs(lengths, capacity, backend="numpy")


@compiled
def test_both_planners_make_the_same_packs_of_many_lengths():
    """Token counts are sorted by counting, numbers far apart by comparing."""
    for spread in (1, 10**12):
        lengths = np.random.default_rng(0).lognormal(7, 0.6, 20_000).astype(np.int64) * spread
        native = plan_packs(lengths, 12288 * spread, backend="compiled")
        assert native == plan_packs(lengths, 12288 * spread, backend="numpy")
        assert efficiency(lengths, native, 12288 * spread) > 0.99


@settings(max_examples=100, deadline=None)
@given(LENGTHS, CAPACITY)
def test_every_item_is_in_one_pack_and_packs_keep_to_the_capacity(lengths, capacity):
    packs = plan_packs(lengths, capacity)
    assert sorted(item for pack in packs for item in pack) == list(range(len(lengths)))
    for pack in packs:
        assert pack and (sum(lengths[item] for item in pack) <= capacity or len(pack) == 1)
    assert all(type(item) is int for pack in packs for item in pack)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, CAPACITY, st.integers(0, 5))
def test_microbatches_hold_every_item_once_in_the_number_asked_for(lengths, capacity, extra):
    needed = len(plan_packs(lengths, capacity))
    for parts, count in ((None, needed), (needed + extra, needed + extra)):
        plan = plan_microbatches(lengths, capacity, parts=parts)
        assert len(plan) == count
        assert sorted(item for part in plan for item in part) == list(range(len(lengths)))
        tokens = [sum(lengths[item] for item in part) for part in plan]
        assert tokens == sorted(tokens, reverse=True)
        assert all(size <= capacity or len(part) == 1 for size, part in zip(tokens, plan))
        assert plan == sorted(plan, key=lambda part: not part)  # empty ones last
        assert all(part == sorted(part) for part in plan)


def test_microbatches_are_even_where_the_capacity_leaves_room():
    lengths = [100] * 12
    packs = plan_packs(lengths, 500)
    assert sorted(map(len, packs)) == [2, 5, 5]
    assert [len(part) for part in plan_microbatches(lengths, 500)] == [4, 4, 4]


def test_microbatches_stay_packs_where_evenness_would_exceed_the_capacity():
    lengths = [6, 5, 4, 3, 2]  # 10 + 10; the longest to the lightest: 6 3 2, 5 4
    assert plan_packs(lengths, 10) == [[0, 2], [1, 3, 4]]
    assert plan_microbatches(lengths, 10) == [[0, 2], [1, 3, 4]]
    # three parts are even; of parts that are not, the fullest is cut
    assert plan_microbatches(lengths, 10, parts=3) == [[1, 4], [2, 3], [0]]
    assert packing._cut([[0, 2], [1, 3, 4]], lengths, 3) == [[1, 3, 4], [0], [2]]


def test_with_more_parts_than_items_the_last_ones_are_empty():
    assert plan_microbatches([7, 9], 16, parts=4) == [[1], [0], [], []]
    assert plan_microbatches([20, 30], 16, parts=3) == [[1], [0], []]
    assert plan_microbatches([], 16, parts=2) == [[], []]
    assert plan_microbatches([], 16) == []


def test_fewer_parts_than_needed_is_an_error():
    with pytest.raises(
        ValueError, match=r"parts: got 1, but 2 are needed for 3 items .* 10 tokens"
    ):
        plan_microbatches([6, 6, 4], 10, parts=1)


def test_efficiency():
    assert efficiency([6, 4, 5], [[0, 1], [2]], 10) == 0.75
    assert efficiency([30, 5], [[0], [1]], 10) == 35 / 40  # a longer item: its pack is full
    assert efficiency([], [], 10) == 1.0
    assert efficiency([HUGE, HUGE], [[0], [1]], HUGE) == 1.0  # no overflow of the sums


def test_real_tokens_are_97_percent_on_lengths_as_spread_as_the_released_data():
    lengths = np.random.default_rng(0).lognormal(7, 0.6, 2_000).astype(np.int64)
    assert efficiency(lengths, plan_packs(lengths, 16384), 16384) >= 0.97
    first_come = [list(range(start, start + 8)) for start in range(0, 2_000, 8)]
    assert efficiency(lengths, first_come, 16384) < 0.97


@pytest.mark.parametrize(
    "lengths, capacity, message",
    [
        ([3, -1], 8, "lengths: wants 0 to .* got -1"),
        (np.array([2**63], dtype=np.uint64), 8, "lengths: wants 0 to .* got 9223372036854775808"),
        ([1.5], 8, "lengths: wants whole numbers, got float64"),
        ([[1, 2]], 8, r"lengths: wants one dimension, got shape \(1, 2\)"),
        ([1], 0, "capacity: wants a whole number of tokens from 1, got 0"),
        ([1], 8.0, "capacity: .* got 8.0"),
        ([1], True, "capacity: .* got True"),
    ],
)
def test_bad_arguments_name_themselves(lengths, capacity, message):
    for function in (plan_packs, plan_microbatches):
        with pytest.raises(ValueError, match=message):
            function(lengths, capacity)


def test_a_planner_that_is_not_there_is_an_error_by_name_and_said_otherwise(monkeypatch):
    with pytest.raises(ValueError, match="backend: got 'fast', wants one of auto, compiled, numpy"):
        plan_packs([1], 8, backend="fast")
    monkeypatch.setattr(packing, "_compiled", lambda: (None, "umer1._packing is not built"))
    assert planner().name == "numpy" and "UMER1_BUILD_PACKING=1" in planner().detail
    assert plan_packs([3, 9, 5], 8) == [[1], [2, 0]]
    with pytest.raises(
        ValueError, match="backend='compiled': umer1._packing is not built; to build"
    ):
        plan_packs([1], 8, backend="compiled")


@compiled
def test_the_compiled_planner_is_taken_where_it_is_built():
    assert planner() == ("compiled", _packing.__file__)
    for lengths, capacity in (([-1], 8), ([1], 0), ([[1]], 8)):  # its own last line of defence
        with pytest.raises(ValueError, match="lengths|capacity"):
            _packing.best_fit_decreasing(np.array(lengths), capacity)
