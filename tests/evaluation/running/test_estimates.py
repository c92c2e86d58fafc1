"""Statistics of columns: means over tasks, paired differences, shares of nothing."""

import numpy as np
import pytest

from umer1.evaluation.running.estimates import Estimates


@pytest.fixture
def tables():
    random = np.random.default_rng(0)
    large = (random.uniform(size=400) < 0.8).astype(float)
    small = (random.uniform(size=50) < 0.4).astype(float)
    return {
        "large": {"a": large, "b": np.maximum(large, random.uniform(size=400) < 0.5)},
        "small": {"a": small, "b": small},
    }


def test_tasks_weigh_the_same_whatever_their_size(tables):
    found = Estimates(tables).mean("a")
    expected = (tables["large"]["a"].mean() + tables["small"]["a"].mean()) / 2
    assert found["value"] == pytest.approx(expected)
    assert found["low"] < expected < found["high"]
    # the standard error of the mean of both, times 1.96 on either side
    error = np.sqrt(sum(table["a"].var() / len(table["a"]) for table in tables.values())) / 2
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_differences_are_paired(tables):
    found = Estimates(tables)
    same = found.of(lambda mean: mean["b"] - mean["a"], ["small"])
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    above = found.of(lambda mean: mean["b"] - mean["a"], ["large"])
    assert 0 < above["low"] < above["value"] < above["high"]


def test_a_share_of_nothing_is_none(tables):
    found = Estimates(tables)
    assert (
        found.of(lambda mean: (mean["b"] - mean["a"]) / (mean["b"] - mean["a"]), ["small"]) is None
    )
    share = found.of(lambda mean: (mean["b"] - mean["a"]) / (mean["b"] - mean["a"]), ["large"])
    assert share == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_same_columns_give_the_same_numbers(tables):
    assert Estimates(tables).mean("b") == Estimates(tables).mean("b")


def test_values_that_are_not_numbers_are_refused(tables):
    tables["small"]["a"] = np.array([1.0, np.nan])
    tables["small"]["b"] = np.array([1.0, 0.0])
    with pytest.raises(ValueError, match="tables: small, a: values are not finite"):
        Estimates(tables)
