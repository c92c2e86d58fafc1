"""Scores of finished runs, gathered into a leaderboard file."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from umer1.evaluation.benchmark import entries
from umer1.evaluation.datasets.tasks import MAIN_METRIC
from umer1.evaluation.means.submission import FIXED, PAGE_TASKS, Submission, check_scores
from umer1.evaluation.modes import mode_name, parse_modes
from umer1.evaluation.report import Report

PAGES = ("fixed", "old")


def collect_submission(
    runs: Sequence[str | Path], mode: str, *, pages: str | None = None, **metadata
) -> tuple[Submission, list[str]]:
    """Gather the score files of one pair of modes from run directories, or from their folders
    image/, video/ and visdoc/.

    mode: "gen", "disc", "gen-disc" or "disc-gen"; a task without a file of that mode is taken from
    one without modes in its name, as VLM2Vec writes them. pages: on which data the two page tasks
    were measured, "fixed" or "old"; without it the run's report says so. metadata: fields of the
    file.

    Returns the submission, and sentences about what a reader should know.

    Raises ValueError when nothing is found, a task is in two runs, a score is not one, or the
    revision of the page data is not known.
    """
    pair = _one_pair(mode)
    if pages not in (None, *PAGES):
        raise ValueError(f"pages: got {pages!r}, need one of {', '.join(PAGES)}")
    folders = [Path(run) for run in runs]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"run: {folder} is not a directory")
    reports = {folder: _report(folder) for folder in folders}
    metrics = {modality: {} for modality in MAIN_METRIC}
    notes, untagged = [], []
    for entry in entries().values():
        if not entry.counted:
            continue
        found = _find(folders, entry, pair)
        if found is None:
            continue
        folder, path = found
        scores = _scores(path, entry)
        task = reports[folder].get(entry.name, {})
        name = entry.name
        if name in PAGE_TASKS and _fixed(task, pages, path):
            name += FIXED
        metrics[entry.modality][name] = scores
        if path.name == f"{entry.name}_score.json":
            untagged.append(entry.name)
        notes += _about(entry, scores, task, mode_name(pair))
        if metadata.get("embedding_dimension") is None:
            metadata["embedding_dimension"] = _dimension(path.parent, entry.name, pair[0])
    if not any(metrics.values()):
        where = ", ".join(map(str, folders))
        raise ValueError(f"run: no score files of {mode_name(pair)} for MMEB-V2's tasks in {where}")
    if untagged:
        notes.append(
            f"score files without modes in their names were taken for {len(untagged)} tasks"
        )
    metadata = {"data_source": "Self-Reported", **metadata}
    metadata["report_generated_date"] = datetime.now().isoformat()
    return Submission(metadata, metrics), notes


def _one_pair(mode):
    pairs = parse_modes(mode)
    if len(pairs) != 1:
        raise ValueError(f"mode: got {mode!r}, a submission has one")
    return pairs[0]


def _find(folders, entry, pair):
    """(run, score file) of a task; names with modes come before names without."""
    names = [f"{entry.name}_{pair[0]}_{pair[1]}_score.json", f"{entry.name}_score.json"]
    for name in names:
        places = [(run, place / name) for run in folders for place in (run, run / entry.modality)]
        found = [(run, path) for run, path in places if path.is_file()]
        if len(found) > 1:
            both = " and ".join(str(path) for _, path in found)
            raise ValueError(f"{entry.name}: scores in {both}, need one")
        if found:
            return found[0]
    return None


def _scores(path, entry):
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    check_scores(scores, entry.modality, str(path))
    return scores


def _report(folder):
    """Task entries of the run's report.json; none when another program wrote the scores."""
    path = folder / "report.json"
    return Report.load(path).tasks if path.is_file() else {}


def _fixed(task, pages, path):
    if pages is not None:
        return pages == "fixed"
    revision = task.get("revision")
    if not revision:
        raise ValueError(
            f"{path}: on which page data it was measured is not known: "
            "say --pages fixed (since November 2025) or --pages old"
        )
    return FIXED in str(revision)


def _about(entry, scores, task, column):
    counted = scores.get("num_data")
    if entry.queries is not None and counted not in (None, entry.queries, entry.later):
        yield f"{entry.name}: {counted} queries, the benchmark has {entry.queries}"
    upstream = (task.get("scores_upstream_pairing") or {}).get(column)
    metric = MAIN_METRIC[entry.modality]
    if upstream and upstream[metric] != scores[metric]:
        yield (
            f"{entry.name}: {metric} {100 * scores[metric]:.2f} is in the file; "
            f"{100 * upstream[metric]:.2f} with upstream's pairing of grades, which the released "
            "evaluation reports"
        )


def _dimension(folder, name, mode):
    path = folder / f"{name}_{mode}_qry.npy"
    return np.load(path, mmap_mode="r").shape[-1] if path.is_file() else None
