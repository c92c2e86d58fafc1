"""Published numbers: what is in the file, and when a run may stand beside them."""

import numpy as np
import pytest

from umer1.evaluation import Report
from umer1.evaluation.pages import published
from umer1.evaluation.pages.comparison import compare
from umer1.evaluation.runs import load_run


def test_columns_are_means_of_their_groups():
    """Of every row that has them all; the sources round, and a few average differently."""
    sizes = {name: len(tasks) for name, tasks in published.column_tasks().items()}
    assert (sizes["Image"], sizes["Video"], sizes["VisDoc"], sizes["All"]) == (36, 18, 24, 78)
    checked = 0
    for row in published._content()["models"]:
        scores = row["scores"]
        if not {"Image", "OOD", "All"} <= set(scores):
            continue
        for modality, parts in published.MODALITIES.items():
            mean = np.average([scores[part] for part in parts], weights=[sizes[p] for p in parts])
            assert scores[modality] == pytest.approx(mean, abs=0.4), (row["name"], modality)
        weights = [sizes[modality] for modality in published.MODALITIES]
        mean = np.average([scores[name] for name in published.MODALITIES], weights=weights)
        assert scores["All"] == pytest.approx(mean, abs=0.15), row["name"]
        checked += 1
    assert checked >= 20


def test_tasks_reproduce_the_groups_of_the_table():
    rows = {(row["name"], row["revision"]): row for row in published._content()["models"]}
    for model in ("DUME-2B", "UME-R1-2B", "VLM2Vec-V2-2B"):
        for column in ("I-CLS", "I-QA", "I-RET", "V-CLS", "V-RET", "VDRv1", "VDRv2", "VR"):
            tasks = published.column_tasks()[column]
            mean = np.mean([published.published_tasks(task)[model] for task in tasks])
            # one DUME figure is printed with a single digit
            assert mean == pytest.approx(rows[model, "old pages"]["scores"][column], abs=0.07)
    assert published.published_tasks("MMLongBench-doc") == {"VLM2Vec-V2-2B": 43.7}
    assert published.published_tasks("digit_sum") == {}


@pytest.fixture
def full_run(tmp_path):
    def make(leave_out=(), revision="VLM2Vec/ViDoSeek-page-fixed@1"):
        tasks = {}
        for modality, parts in published.MODALITIES.items():
            for part in parts:
                for name in published.column_tasks()[part]:
                    tasks[name] = {
                        "modality": modality.lower(),
                        "main_metric": "hit@1",
                        "queries": 10,
                        "candidates": 5,
                        "main": {"gen": 0.5 if modality == "Image" else 0.25},
                        "tied_labels": {},
                        "revision": revision,
                    }
        for name in leave_out:
            del tasks[name]
        Report({"model": "m@1"}, tasks).save(tmp_path / "full" / "report.json")
        return compare([load_run(tmp_path / "full")])

    return make


def test_a_whole_run_stands_among_the_others(full_run):
    (row,) = [row for row in published.published_table(full_run()) if row.own]
    assert row.scores["Image"] == 50 and row.scores["VisDoc"] == 25
    assert row.scores["All"] == pytest.approx(100 * (36 * 0.5 + 42 * 0.25) / 78)
    assert (row.revision, row.source, row.partial) == ("fixed pages", "m@1", {})
    places = [other.scores.get("All", -1) for other in published.published_table(full_run())]
    assert places == sorted(places, reverse=True)


def test_a_part_of_a_group_has_no_score(full_run):
    (row,) = published.own_rows(full_run(["GQA", "VisRAG_PlotQA"], "VLM2Vec/ViDoSeek"))
    assert {"I-QA", "Image", "VR", "VisDoc", "All"}.isdisjoint(row.scores)
    assert row.partial["I-QA"] == "9 of 10 tasks" and row.partial["All"] == "76 of 78 tasks"
    assert row.scores["I-CLS"] == 50 and row.revision == "old pages"


def test_a_run_of_other_tasks_does_not_stand_there(two_runs):
    assert published.own_rows(compare([load_run(two_runs[0])])) == []
