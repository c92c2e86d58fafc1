"""A run beside what others report on MMEB-V2 (published.yaml), each with its benchmark revision."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from umer1.evaluation.pages.comparison import Comparison

MODALITIES = {
    "Image": ("I-CLS", "I-QA", "I-RET", "I-GD"),
    "Video": ("V-CLS", "V-QA", "V-RET", "V-MRET"),
    "VisDoc": ("VDRv1", "VDRv2", "VR", "OOD"),
}
# the tasks whose labels were corrected: their revision decides what a run compares with
CORRECTED = ("ViDoSeek-page", "MMLongBench-page")


@dataclass(slots=True)
class PublishedRow:
    """scores: column -> percent. partial: column -> why a run has no score there. own: a run's."""

    name: str
    size: str
    kind: str
    mode: str
    revision: str
    source: str
    scores: dict[str, float]
    note: str = ""
    own: bool = False
    partial: dict[str, str] = field(default_factory=dict)


def published_table(comparison: Comparison) -> list[PublishedRow]:
    """All rows, best first by "All", rows without it last; the runs' own among them.

    A run has a score in a column when it covers all its tasks: a mean over a part is not set beside
    means over the whole.
    """
    sources = _content()["sources"]
    rows = [
        PublishedRow(**{**entry, "source": sources.get(entry["source"], entry["source"])})
        for entry in _content()["models"]
    ]
    rows += own_rows(comparison)
    return sorted(rows, key=lambda row: -row.scores.get("All", -1.0))


def published_columns() -> list[str]:
    return list(_content()["columns"])


def own_rows(comparison: Comparison) -> list[PublishedRow]:
    """A row per column of the comparison; none when no task of the runs is MMEB-V2's."""
    members = column_tasks()
    if not set(members["All"]) & set(comparison.tasks):
        return []
    return [_own_row(comparison, column, members) for column in comparison.columns]


def column_tasks() -> dict[str, list[str]]:
    """Column -> names of MMEB-V2's tasks in it."""
    groups = {group: list(tasks) for group, tasks in _content()["tasks"].items()}
    for modality, parts in MODALITIES.items():
        groups[modality] = [name for part in parts for name in groups[part]]
    groups["All"] = [name for modality in MODALITIES for name in groups[modality]]
    return groups


def published_tasks(task: str) -> dict[str, float]:
    """Model -> percent on one task; empty for a task that nobody reports."""
    for tasks in _content()["tasks"].values():
        if task in tasks:
            pairs = zip(_content()["task_models"], tasks[task], strict=True)
            return {model: score for model, score in pairs if score is not None}
    return {}


def _own_row(comparison, column, members):
    run = comparison.runs[column.run]
    scores, partial = {}, {}
    for name in published_columns():
        found = [
            comparison.tasks[task].means[column.key]
            for task in members[name]
            if task in comparison.tasks and column.key in comparison.tasks[task].means
        ]
        if len(found) == len(members[name]):
            scores[name] = 100 * float(np.mean(found))
        elif found:
            partial[name] = f"{len(found)} of {len(members[name])} tasks"
    model = str(run.settings.get("model") or "")
    return PublishedRow(
        column.label, "", "own", column.name, _revision(run), model, scores, "", True, partial
    )


def _revision(run):
    """Which labels the two corrected tasks had, by the repository or path of their data."""
    found = [run.tasks[name].entry.get("revision") for name in CORRECTED if name in run.tasks]
    if not found or None in found:
        return "not recorded"
    fixed = {"fixed pages" if "-fixed" in revision else "old pages" for revision in found}
    return " and ".join(sorted(fixed))


@cache
def _content():
    path = Path(__file__).with_name("published.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
