"""The measurement of scoring runs, checks its rankings, and says what it saw."""

import numpy as np
import pytest

pytest.importorskip("torch")

from bench import scoring_memory
from umer1.evaluation.scores import scoring


def test_a_small_slice_is_measured_in_blocks(monkeypatch):
    monkeypatch.setattr(scoring, "COMPLETE", 0)
    row = scoring_memory.measure(queries=40, candidates=3000, dimension=256, device=None)
    assert row["bytes_of_all_scores"] == 40 * 3000 * 4
    assert row["seconds"] > 0
    assert 0 < row["mrr@10"] <= 1


def test_a_wrong_ranking_is_not_measured(monkeypatch):
    class Wrong:
        predictions = [{"prediction": [f"c{row}" for row in range(10)]}]

    vectors = np.arange(100, dtype=np.float32)[:, None]
    with pytest.raises(AssertionError, match="query 0: ranked"):
        scoring_memory._check(Wrong(), np.ones((1, 1), np.float32), vectors)
