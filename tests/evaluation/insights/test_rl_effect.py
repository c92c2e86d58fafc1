"""The effect of RL over seeds against Student's t by hand."""

import pytest

from umer1.evaluation.insights.rl_effect import effect_over_seeds


def seed(sft, rl):
    return {
        stage: {"groups": {"overall": {"gen": value, "disc": 0.5}}}
        for stage, value in (("sft", sft), ("rl", rl))
    }


def test_three_seeds():
    found = effect_over_seeds(
        {"0": seed(0.80, 0.81), "1": seed(0.82, 0.85), "2": seed(0.90, 0.92)}, ["overall"]
    )["overall"]
    # differences 1, 3, 2 points: mean 2, deviation 1; t(0.975, 2 degrees) = 4.302653
    half = 4.302653 * 0.01 / 3**0.5
    assert found["gen"] == {
        "value": pytest.approx(0.02),
        "low": pytest.approx(0.02 - half),
        "high": pytest.approx(0.02 + half),
        "lowest": pytest.approx(0.01),
        "highest": pytest.approx(0.03),
        "seeds": 3,
    }
    assert found["disc"]["low"] == found["disc"]["high"] == 0


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="seeds: got 1, an interval needs at least 2"):
        effect_over_seeds({"0": seed(0.8, 0.9)}, ["overall"])
