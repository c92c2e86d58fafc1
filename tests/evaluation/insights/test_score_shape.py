"""Signals of score lists: known values, free of scale, quiet about lists that say nothing."""

import numpy as np
import pytest

from umer1.evaluation.insights.score_shape import SIGNALS, TEMPERATURE, signals

LIST = np.array([0.1, 0.7, 0.3, 0.5], np.float32)


def test_known_values():
    spread = np.std([0.1, 0.7, 0.3, 0.5])
    assert SIGNALS["lead"](LIST) == pytest.approx(0.2 / spread, rel=1e-6)
    assert SIGNALS["prominence"](LIST) == pytest.approx(0.3 / spread, rel=1e-6)
    assert SIGNALS["step"](LIST) == pytest.approx(0.4 / spread, rel=1e-6)
    weights = np.exp(LIST.astype(float) / TEMPERATURE)
    weights /= weights.sum()
    entropy = -(weights * np.log(weights)).sum()
    assert SIGNALS["certainty"](LIST) == pytest.approx(1 - entropy / np.log(4), abs=1e-9)


@pytest.mark.parametrize("name", ["lead", "prominence", "step"])
def test_scale_and_offset_change_nothing(name):
    assert SIGNALS[name](LIST * 0.25 + 0.4) == pytest.approx(SIGNALS[name](LIST), rel=1e-5)


@pytest.mark.parametrize("name", SIGNALS)
def test_order_changes_nothing_and_several_lists_go_at_once(name):
    lists = np.stack([LIST, LIST[::-1], LIST[[2, 0, 3, 1]]])
    np.testing.assert_allclose(SIGNALS[name](lists), SIGNALS[name](LIST), rtol=1e-12)


@pytest.mark.parametrize("name", SIGNALS)
def test_one_candidate_or_equal_scores_say_nothing(name):
    assert SIGNALS[name](np.array([0.8], np.float32)) == 0
    assert SIGNALS[name](np.full(5, 0.3, np.float32)) == pytest.approx(0, abs=1e-12)


def test_lists_of_different_lengths():
    found = signals([LIST, LIST[:2]])
    assert set(found) == set(SIGNALS)
    np.testing.assert_allclose(found["lead"], [0.2 / np.std(LIST), 2.0], rtol=1e-5)
