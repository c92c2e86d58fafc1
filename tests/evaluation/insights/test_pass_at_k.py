"""The estimator against enumeration of all subsets."""

from itertools import combinations

import numpy as np
import pytest

from umer1.evaluation.insights.oracle import oracle
from umer1.evaluation.insights.pass_at_k import estimate, pass_at_k


def test_estimate_is_the_share_of_subsets_with_a_right_sample():
    for samples in range(1, 8):
        for right in range(samples + 1):
            flags = [True] * right + [False] * (samples - right)
            for k in range(1, samples + 1):
                drawn = [any(subset) for subset in combinations(flags, k)]
                assert estimate(samples, right, k) == pytest.approx(sum(drawn) / len(drawn))


def test_curve_of_several_queries():
    right = np.array(
        [[True, False, False, False], [False] * 4, [True] * 4, [False, True, True, False]]
    )
    curve = pass_at_k(right)
    assert list(curve) == [1, 2, 3, 4]
    assert curve[1] == pytest.approx(right.mean())
    assert curve[4] == pytest.approx(right.any(axis=1).mean())
    assert curve[2] == pytest.approx((0.5 + 0 + 1 + (1 - 1 / 6)) / 4)
    assert all(curve[k] <= curve[k + 1] for k in (1, 2, 3))


def test_order_of_samples_does_not_matter():
    random = np.random.default_rng(0)
    right = random.random((50, 16)) < 0.3
    assert pass_at_k(right) == pass_at_k(random.permuted(right, axis=1))


@pytest.mark.parametrize("right", [np.zeros((0, 4), bool), np.zeros(4, bool), np.zeros((2, 2))])
def test_input_of_another_shape_is_refused(right):
    with pytest.raises(ValueError, match="need bool"):
        pass_at_k(right)


def test_k_outside_the_samples_is_refused():
    with pytest.raises(ValueError, match="1 <= k <= samples"):
        estimate(4, 1, 5)


def test_oracle_is_the_better_per_query():
    best = oracle(np.array([1.0, 0.0, 0.3]), np.array([0.0, 0.0, 0.5]))
    assert best.tolist() == [1.0, 0.0, 0.5]
    with pytest.raises(ValueError, match="same task"):
        oracle(np.zeros(2), np.zeros(3))
