"""Batches: explicit same-source groups, the same for any number of processes and after a resume."""

from collections import Counter
from itertools import islice

import pytest

from umer1.training.batching import GroupedBatches, rank_slice

SOURCES = ["a"] * 100 + ["b"] * 70 + ["c"] * 35


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
