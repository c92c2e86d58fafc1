"""Shares of a batch: equal counts, tokens as even as can be."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1.training.balance import even_shares


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.data())
def test_every_item_is_in_one_share_and_counts_are_equal(parts, each, data):
    count = parts * each
    lengths = data.draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count))
    shares = even_shares(lengths, parts)
    assert [len(share) for share in shares] == [each] * parts
    assert sorted(itertools.chain(*shares)) == list(range(count))
    assert shares == even_shares(np.array(lengths, dtype=np.int64), parts)


def test_two_each_is_the_best_there_is():
    """The longest with the shortest: checked against every division of eight items among four."""
    chance = np.random.default_rng(0)
    for _ in range(20):
        lengths = chance.integers(0, 100, 8)
        best = min(
            max(lengths[order[i]] + lengths[order[i + 1]] for i in (0, 2, 4, 6))
            for order in itertools.permutations(range(8))
            if order[0] == 0 and all(order[i] < order[i + 1] for i in (0, 2, 4, 6))
        )
        assert max(lengths[share].sum() for share in even_shares(lengths, 4)) == best


def test_tokens_are_even_on_a_wide_spread():
    lengths = np.random.default_rng(0).lognormal(7, 0.6, 256).astype(int)
    sums = [lengths[share].sum() for share in even_shares(lengths, 8)]
    assert max(sums) / np.mean(sums) < 1.001
    consecutive = lengths.reshape(8, 32).sum(1)
    assert consecutive.max() / consecutive.mean() > 1.05


def test_counts_that_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="7 items cannot be 2 equal shares"):
        even_shares([1] * 7, 2)
