"""The leaderboard's file: one JSON document with the scores of a model on MMEB-V2's 78 tasks.

    {"metadata": {"model_name": …}, "metrics": {"image": {task: content of its score file}, …}}

A task without scores is a string ("FILE_N/A") instead of an object. The two page tasks are called
`…-fixed` when they were measured on the corrected data (November 2025), the plain name being the
data before. The released report script writes the new names and then looks for the old ones, so the
mean it prints for visual documents covers 22 of the 24 tasks; `printed_mean` gives that number.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from umer1.evaluation import files
from umer1.evaluation.benchmark import entries
from umer1.evaluation.datasets.tasks import MAIN_METRIC
from umer1.evaluation.means.aggregate import mean_over
from umer1.evaluation.means.benchmark_groups import benchmark_groups, counted_tasks

MISSING = "FILE_N/A"
FIXED = "-fixed"
# their labels were corrected; in the benchmark's data they are the entries with a repository before
PAGE_TASKS = ("ViDoSeek-page", "MMLongBench-page")
METADATA = (
    "model_name",
    "model_backbone",
    "model_size",
    "embedding_dimension",
    "max_length_tokens",
    "model_release_date",
    "data_source",
    "url",
    "report_generated_date",
)


@dataclass(slots=True)
class Submission:
    """metadata: as in the file. metrics: modality -> task name -> its scores, or a string."""

    metadata: dict
    metrics: dict[str, dict[str, dict | str]]

    @property
    def main_scores(self) -> dict[str, float]:
        """Main metric of every counted task that has one, by its name in the benchmark."""
        return {
            plain_name(name): float(scores[MAIN_METRIC[modality]])
            for modality, tasks in self.metrics.items()
            for name, scores in tasks.items()
            if isinstance(scores, dict) and plain_name(name) in counted_tasks()
        }

    @property
    def pages(self) -> str:
        """Which data the page tasks were measured on: "fixed", "plain name" or "none"."""
        names = [name for name in self.metrics["visdoc"] if plain_name(name) in PAGE_TASKS]
        names = [name for name in names if isinstance(self.metrics["visdoc"][name], dict)]
        if not names:
            return "none"
        return "fixed" if all(name.endswith(FIXED) for name in names) else "plain name"

    @property
    def uncounted(self) -> list[str]:
        """Scored tasks that are in no mean (for example MomentSeeker_1k8)."""
        return [
            name
            for tasks in self.metrics.values()
            for name, scores in tasks.items()
            if isinstance(scores, dict) and plain_name(name) not in counted_tasks()
        ]


def read_submission(path: str | Path) -> Submission:
    """Read a leaderboard file, whoever wrote it.

    Raises ValueError, naming file and task, when it is not one or a score is not in [0, 1].
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    metrics = content.get("metrics") if isinstance(content, dict) else None
    shaped = isinstance(metrics, dict) and all(isinstance(part, dict) for part in metrics.values())
    if not shaped or not set(metrics) <= set(MAIN_METRIC):
        raise ValueError(f"{path}: need an object with metrics for {', '.join(MAIN_METRIC)}")
    for modality, tasks in metrics.items():
        for name, scores in tasks.items():
            if not isinstance(scores, str):
                check_scores(scores, modality, f"{path}: {name}")
    metadata = content.get("metadata")
    metrics = {modality: metrics.get(modality, {}) for modality in MAIN_METRIC}
    return Submission(metadata if isinstance(metadata, dict) else {}, metrics)


def write_submission(path: str | Path, submission: Submission) -> None:
    """Write the file to upload: every counted task is in it, missing ones as a string."""
    metadata = {key: submission.metadata.get(key) for key in METADATA}
    scored = {
        (modality, plain_name(name)): (name, scores)
        for modality, tasks in submission.metrics.items()
        for name, scores in tasks.items()
    }
    metrics = {}
    for modality in MAIN_METRIC:
        pairs = [scored.get((modality, name), (name, MISSING)) for name in _counted(modality)]
        metrics[modality] = dict(pairs)
    files.save_json(Path(path), {"metadata": metadata, "metrics": metrics})


def benchmark_means(scores: Mapping[str, float]) -> dict[str, dict]:
    """Group -> {"mean", "tasks", "missing"} over MMEB-V2's groups, from main metrics by task name.

    "overall" is the mean over the 78 tasks, which is not the mean of the three modalities. Groups
    without any score are left out; one that misses tasks names them.
    """
    means = {group: mean_over(names, scores) for group, names in benchmark_groups().items()}
    return {group: entry for group, entry in means.items() if entry["tasks"]}


def printed_mean(scores: Mapping[str, float]) -> dict:
    """The mean that the released report script prints for visual documents: without page tasks."""
    names = [name for name in benchmark_groups()["visdoc"] if name not in PAGE_TASKS]
    return mean_over(names, scores)


def plain_name(name: str) -> str:
    """A task's name in the benchmark: without the mark of the corrected page data."""
    plain = name.removesuffix(FIXED)
    return plain if plain in PAGE_TASKS else name


def check_scores(scores, modality: str, where: str) -> None:
    """Raise ValueError unless `scores` is the content of a score file with a main metric."""
    metric = MAIN_METRIC[modality]
    value = scores.get(metric) if isinstance(scores, dict) else None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"{where}: need {metric} between 0 and 1, got {value!r}")


def _counted(modality):
    return [
        entry.name for entry in entries().values() if entry.counted and entry.modality == modality
    ]
