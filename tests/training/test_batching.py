"""Batches: explicit same-source groups, the same for any number of processes and after a resume."""

import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from umer1.training.batching import GroupedBatches, rank_slice

SOURCES = ["a"] * 100 + ["b"] * 70 + ["c"] * 35
GOLDEN = [[4, 9, 8, 1], [6, 3, 0, 2]]


def test_every_pair_is_seen_once_per_epoch_but_for_the_last_partial_batch():
    batches = GroupedBatches(SOURCES, batch_size=16, group_size=8, seed=1).epoch(0)
    seen = [index for batch in batches for index in batch]
    assert len(seen) == len(set(seen)) == len(SOURCES) // 16 * 16
    assert all(len(batch) == 16 for batch in batches)


def test_groups_hold_one_source_except_the_mixed_left_overs():
    batches = GroupedBatches(SOURCES, 16, 8, seed=1).epoch(0)
    groups = [batch[i : i + 8] for batch in batches for i in (0, 8)]
    pure = [group for group in groups if len({SOURCES[index] for index in group}) == 1]
    assert len(pure) >= 100 // 8 + 70 // 8 + 35 // 8 - 2


def test_groups_do_not_depend_on_the_number_of_processes():
    """Hazard H7: in the release grouping is a property of file order and exactly 64 GPUs x 4."""
    batches = GroupedBatches(SOURCES, 16, 8, seed=3).epoch(0)
    for world_size in (1, 2, 4):
        rebuilt = [
            sum((rank_slice(batch, rank, world_size) for rank in range(world_size)), [])
            for batch in batches
        ]
        assert rebuilt == batches


def test_a_resumed_run_sees_the_batches_the_killed_one_would_have():
    make = lambda: GroupedBatches(SOURCES, 16, 8, seed=3)  # noqa: E731
    whole = list(islice(make().batches(), 30))
    assert list(islice(make().batches(17), 13)) == whole[17:]


def test_epochs_differ_and_seeds_decide():
    batches = GroupedBatches(SOURCES, 16, 8, seed=3)
    assert batches.epoch(0) != batches.epoch(1)
    assert batches.epoch(0) == GroupedBatches(SOURCES, 16, 8, seed=3).epoch(0)
    assert batches.epoch(0) != GroupedBatches(SOURCES, 16, 8, seed=4).epoch(0)


def test_distinct_targets_keep_twins_apart():
    keys = [index % 10 for index in range(100)]
    plain = GroupedBatches(["a"] * 100, 10, 10, seed=0).epoch(0)
    apart = GroupedBatches(["a"] * 100, 10, 10, seed=0, target_keys=keys).epoch(0)
    twins = lambda batches: sum(10 - len(Counter(keys[i] for i in batch)) for batch in batches)  # noqa: E731
    assert twins(apart) == 0 < twins(plain)
    assert sorted(index for batch in apart for index in batch) == list(range(100))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((SOURCES, 10, 4), "multiple of group_size"),
        ((SOURCES[:5], 8, 8), "batch_size"),
        ((SOURCES, 8, 8, 0, [1]), "target_keys"),
    ],
)
def test_bad_arguments_name_themselves(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupedBatches(*arguments)


def test_a_batch_that_does_not_divide_over_processes_is_refused():
    with pytest.raises(ValueError, match="multiple of the number of processes 3"):
        rank_slice([1, 2, 3, 4], 0, 3)


def test_batches_of_a_seed_are_the_same_everywhere_and_for_good():
    """Resuming on another machine, with another numpy: these numbers must never change."""
    batches = GroupedBatches(["b", "a", "b", "a", "b"] * 2, 4, 2, seed=7)
    assert batches.epoch(0) == GOLDEN
    assert GroupedBatches(np.array([9, 3, 9, 3, 9] * 2), 4, 2, seed=7).epoch(0) == GOLDEN


def test_codes_and_names_give_the_same_batches():
    codes = np.array([{"a": 0, "b": 1, "c": 2}[name] for name in SOURCES], dtype=np.int32)
    order = np.random.default_rng(0).permutation(len(SOURCES))
    named = GroupedBatches([SOURCES[index] for index in order], 16, 8, seed=1)
    assert GroupedBatches(codes[order], 16, 8, seed=1).epoch(3) == named.epoch(3)
    assert named.source_counts == {"a": 100, "b": 70, "c": 35}
    assert all(type(index) is int for index in next(named.batches()))


def test_twins_are_spread_even_when_there_are_more_than_groups():
    """Ten labels, groups of sixteen: six twins in a group are the fewest there can be."""
    keys = [("label", index % 10) for index in range(160)]
    for batch in GroupedBatches(["a"] * 160, 16, 16, seed=0, target_keys=keys).epoch(0):
        assert sorted(Counter(keys[index] for index in batch).values()) == [1] * 4 + [2] * 6


def test_the_rest_of_an_epoch_is_dealt_apart_too():
    """Left-overs of many small sources meet in mixed groups, their twins apart as well."""
    sources, keys = [f"s{index // 3}" for index in range(60)], [index % 3 for index in range(60)]
    plain = GroupedBatches(sources, 4, 4, seed=0).epoch(0)
    apart = GroupedBatches(sources, 4, 4, seed=0, target_keys=keys).epoch(0)
    twins = lambda batches: sum(4 - len({keys[i] for i in batch}) for batch in batches)  # noqa: E731
    assert twins(apart) == 15 < twins(plain)  # three keys, groups of four


def test_weights_share_out_the_pairs_of_an_epoch():
    weights = {"a": 1, "b": 1.5, "c": 2.5}
    batches = GroupedBatches(SOURCES, 5, 5, seed=1, weights=weights)
    assert batches.source_counts == {
        "a": 41,
        "b": 62,
        "c": 102,
    }  # of 205, exactly 41 : 61.5 : 102.5
    for number in range(3):
        drawn = Counter(SOURCES[index] for batch in batches.epoch(number) for index in batch)
        assert drawn == batches.source_counts


def test_a_weighted_source_comes_around_evenly_and_never_meets_itself():
    batches = GroupedBatches(SOURCES, 5, 5, seed=1, weights={"a": 1, "b": 0, "c": 4})
    seen = Counter()
    for number in range(5):
        epoch = batches.epoch(number)
        assert all(len(set(batch)) == 5 for batch in epoch)
        seen.update(index for batch in epoch for index in batch)
    assert {SOURCES[index] for index in seen} == {"a", "c"}
    # 5 epochs of 41 of 100 and of 164 of 35: whole passes, and part of one
    assert {seen[index] for index in range(100)} == {2, 3}
    assert {seen[index] for index in range(170, 205)} == {23, 24}


def test_weights_in_proportion_to_the_sizes_change_nothing_but_the_order():
    sized = GroupedBatches(SOURCES, 5, 5, seed=1, weights={"a": 100, "b": 70, "c": 35})
    assert sorted(index for batch in sized.epoch(2) for index in batch) == list(range(205))


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"a": 1, "b": 1}, "weights: none for source 'c'"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "weights: no pairs of source 'd'"),
        ({"a": 1, "b": -1, "c": 1}, "weights: .* source 'b', got -1"),
        ({"a": 1, "b": float("nan"), "c": 1}, "weights: .* source 'b', got nan"),
        ({"a": 0, "b": 0, "c": 0}, "weights: wants at least one above 0"),
    ],
)
def test_bad_weights_name_themselves(weights, message):
    with pytest.raises(ValueError, match=message):
        GroupedBatches(SOURCES, 16, 8, weights=weights)


def test_steps_of_epochs():
    batches = GroupedBatches(["a"] * 100, 1, 1)
    assert batches.steps(1) == 100 and batches.steps(2.5, accumulation=4) == 62
    assert batches.steps(0.29) == 29  # not 28: 0.29 * 100 is 28.999999999999996
    assert batches.steps(0.001) == 1
    for epochs in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="epochs: wants a number above 0"):
            batches.steps(epochs)


def test_shares_with_lengths_have_equal_counts_and_about_equal_tokens():
    lengths = np.random.default_rng(0).lognormal(7, 0.6, 205).astype(int)
    batch = GroupedBatches(SOURCES, 64, 16, seed=3).epoch(0)[0]
    shares = [rank_slice(batch, rank, 4, lengths[batch]) for rank in range(4)]
    assert [len(share) for share in shares] == [16] * 4
    assert sorted(sum(shares, [])) == sorted(batch)
    tokens = [lengths[share].sum() for share in shares]
    assert max(tokens) / min(tokens) < 1.001
    assert all(share == sorted(share, key=batch.index) for share in shares)
    assert rank_slice(batch, 0, 1, lengths[batch]) == batch


def test_bad_shares_name_themselves():
    with pytest.raises(ValueError, match="rank: got 2, wants 0 to 1"):
        rank_slice([1, 2], 2, 2)
    with pytest.raises(ValueError, match="lengths: got 3, wants one per pair of the batch"):
        rank_slice([1, 2], 0, 2, [1, 2, 3])


def test_epochs_of_many_pairs_are_quick():
    """A twentieth of a second here, on numpy arrays; a pass per pair in Python took ten times as long."""
    codes = np.random.default_rng(0).integers(0, 25, 300_000).astype(np.int32)
    batches = GroupedBatches(codes, 256, 64, seed=0)
    began = time.process_time()  # tests share their cores
    epoch = batches.epoch_array(0)
    assert time.process_time() - began < 0.3
    groups = codes[epoch].reshape(-1, 64)
    assert len(np.unique(epoch)) == epoch.size == 300_000 // 256 * 256
    assert (groups == groups[:, :1]).all(1).mean() > 0.99
