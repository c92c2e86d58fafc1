"""Bootstrap means and intervals: their spread, their pairing, their repeatability."""

import numpy as np
import pytest

from umer1.evaluation import bootstrap
from umer1.evaluation.bootstrap import interval, resampled_means


def test_the_spread_is_the_standard_error():
    values = np.random.default_rng(3).normal(2.0, 1.5, (1, 400))
    means = resampled_means(values, "a", draws=4000)[0]
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = interval(means)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """95 % of 400 data sets would be 380; the binomial spread is 4.4."""
    generator, covered = np.random.default_rng(0), 0
    for number in range(400):
        values = (generator.random((1, 100)) < 0.3).astype(np.float64)
        low, high = interval(resampled_means(values, str(number), draws=500)[0])
        covered += low <= 0.3 <= high
    assert 362 <= covered <= 392


def test_columns_are_drawn_together_and_names_apart():
    values = np.random.default_rng(1).random((1, 50))
    both = resampled_means(np.concatenate([values, values + 0.25]), "a")
    assert both[1] - both[0] == pytest.approx(0.25)
    alone = resampled_means(values, "a")
    assert (alone[0] == both[0]).all()
    assert not np.array_equal(resampled_means(values, "b"), alone)
    assert not np.array_equal(resampled_means(values, "a", seed=1), alone)


def test_what_is_held_at_a_time_changes_nothing(monkeypatch):
    values = np.random.default_rng(2).random((2, 30))
    whole = resampled_means(values, "a", draws=100)
    monkeypatch.setattr(bootstrap, "CHUNK", 70)
    assert (resampled_means(values, "a", draws=100) == whole).all()


def test_no_queries_no_interval():
    with pytest.raises(ValueError, match=r"values: got \[2, 0\]"):
        resampled_means(np.zeros((2, 0)), "a")
