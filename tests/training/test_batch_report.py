"""The lines before the first step: their figures are those of the batches."""

import numpy as np

from umer1.training import batching
from umer1.training.batch_report import describe_batches
from umer1.training.batching import GroupedBatches

SOURCES = ["a"] * 20 + ["b"] * 13


def test_groups_and_sources():
    batches = GroupedBatches(SOURCES, 8, 4)
    assert describe_batches(batches) == (
        "batches: 33 pairs of 2 sources; 8 pairs a batch, 2 x 4 of one source; 4 batches an epoch, "
        "0 of its groups of mixed sources"
    )
    weighted = GroupedBatches(SOURCES, 8, 4, weights={"a": 18, "b": 15})
    assert "1 of its groups of mixed" in describe_batches(weighted)  # 18 and 15 leave 2 and 3


def test_tokens_and_packs():
    lengths = np.full(33, 10, dtype=np.int32)
    lines = describe_batches(GroupedBatches(SOURCES, 8, 4), lengths, world_size=2, capacity=25)
    _, tokens, packs = lines.split("\n")
    assert tokens == (
        "tokens a batch, estimated: 80 (80 to 80 for 9 of 10); the fullest of 2 processes has 1.000 x the mean"
    )
    # 4 pairs a process, 2 to a pack: 20 of 25 tokens
    assert packs.startswith(
        "packs of 25 tokens: 2.0 a batch and process, 80.0 % of their room real tokens, none padded (planner: "
    )


def test_packs_are_described_wherever_there_are_any():
    batches = GroupedBatches(SOURCES, 8, 4)
    assert "packs of at most 25 tokens" in describe_batches(batches, capacity=25)  # lengths unknown
    whole = describe_batches(batches, np.full(33, 10), capacity=0)
    assert whole.split("\n")[2].startswith("packs: one a batch and process")


def test_shares_are_computed_once_a_batch(monkeypatch):
    asked = []
    even = batching.even_shares
    monkeypatch.setattr(batching, "even_shares", lambda *args: asked.append(1) or even(*args))
    batches = GroupedBatches(["a"] * 128, 64, 64)
    describe_batches(batches, np.arange(128), world_size=64)
    assert len(asked) == 2


def test_one_long_pair_is_seen_in_the_balance():
    lengths = np.ones(33, dtype=np.int32)
    lengths[:] = np.where(np.arange(33) % 8 == 0, 97, 1)
    batches = GroupedBatches(["a"] * 33, 32, 32)
    line = describe_batches(batches, lengths, world_size=8).split("\n")[1]
    batch = batches.epoch(0)[0]
    expected = (97 + 3) * 8 / lengths[batch].sum()
    assert line.endswith(f"the fullest of 8 processes has {expected:.3f} x the mean")
    fullest = max(lengths[batch[first : first + 4]].sum() for first in range(0, 32, 4))
    line = describe_batches(batches, lengths, world_size=8, balanced=False).split("\n")[1]
    assert line.endswith(f"has {fullest * 8 / lengths[batch].sum():.3f} x the mean")
