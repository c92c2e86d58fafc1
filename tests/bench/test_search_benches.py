"""Recall of indexes and fusion of modes: numbers, tables, pages."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bench import fused_modes, index_recall

PAGE = "# Page\n\n<!-- begin: index-recall -->\nold\n<!-- end: index-recall -->\nrest\n"


def test_recall_is_measured_and_written(tmp_path, capsys):
    pytest.importorskip("faiss")
    page, result = tmp_path / "page.md", tmp_path / "out" / "r.json"
    page.write_text(PAGE)
    options = ["--rows", "600", "--dimension", "32", "--only", "float32"]
    places = ["--json", str(result), "--page", str(page), "--work", str(tmp_path)]
    assert index_recall.main([*options, *places]) == 0
    rows = json.loads(result.read_text())["rows"]
    kinds = [(row["kind"], row["mode"]) for row in rows]
    assert kinds == [(kind, mode) for mode in ("gen", "fused") for kind in index_recall.KINDS]
    assert all(row["recall@10"] > 0.98 for row in rows)
    assert rows[0]["recall@10"] == rows[3]["recall@10"] == 1
    assert rows[0]["bytes"] >= 600 * 32 * 4
    text = page.read_text()
    assert "| hnsw | float32 | fused | " in text
    assert text.startswith("# Page\n") and text.endswith("rest\n") and "old" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "page.md"]


def test_a_page_without_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no markers <!-- begin: index-recall -->"):
        index_recall.write_page(page, "x", "index-recall")


def test_drawn_modes_have_something_in_common():
    drawn = index_recall.Vectors(np.random.default_rng(0), 64).draw(2000)
    similarity = {mode: (rows[:1000] * rows[1000:]).sum(1) for mode, rows in drawn.items()}
    for rows in drawn.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert 0.3 < np.corrcoef(similarity["disc"], similarity["gen"])[0, 1] < 0.7


def test_rules_rank_as_they_say():
    disc, gen = np.array([0.9, 0.1, 0.5]), np.array([0.0, 0.6, 0.55])
    best = {rule: int(fuse(disc, gen).argmax()) for rule, fuse in fused_modes.RULES.items()}
    assert best == {"disc": 0, "gen": 1, "mean": 2, "best": 0, "standardized": 2, "ranks": 0}
    scores = {"disc": [disc], "gen": [gen]}
    task = SimpleNamespace(
        scores=scores.get,
        main=lambda fused: np.array([float(values.argmax() == 2) for values in fused]),
    )
    means = fused_modes.means([task])
    assert [rule for rule, value in means.items() if value == 100] == ["mean", "standardized"]
