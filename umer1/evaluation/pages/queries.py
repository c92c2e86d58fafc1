"""Single queries of a comparison, as the report lists them: text, pictures, what was right, what
was ranked first under each column, and what the model wrote.
"""

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import numpy as np

from umer1.evaluation.datasets import EvalTask, load_tasks
from umer1.evaluation.pages.comparison import Column, Comparison, Row
from umer1.evaluation.pages.pictures import Pictures
from umer1.evaluation.runs import TaskRun

TOP = 3
RIGHT = 3
TEXT = 3000


def collect_queries(
    comparison: Comparison,
    pair: tuple[str, str] | None,
    pictures: Pictures,
    *,
    per_task: int,
    benchmark: str | Path | None = None,
) -> dict:
    """{"queries": [...], "candidates": {task: [...]}}, plain values for JSON; a query names
    candidates by their place in its task's list.

    per_task: how many queries of a task are listed at most: lost, won, wrong and right ones under
    `pair` in turn. benchmark: read for runs that have no index of their items.
    """
    columns = [column for column in comparison.columns if column.pair is not None]
    queries, candidates = [], {}
    tasks = _benchmark_tasks(comparison, benchmark)
    for place, (name, row) in enumerate(comparison.tasks.items()):
        # what earlier tasks did not need is there for later ones
        pictures.share(len(comparison.tasks) - place)
        own = [column for column in columns if column.key in row.values]
        if not own:
            continue
        rows = _choose(comparison, row, pair, own, per_task)
        source = _Items(comparison, row, tasks.get(name), pictures)
        views = {column.key: _View(comparison, row, column, rows) for column in own}
        for number in rows:
            queries.append(_query(name, number, source, views))
        candidates[name] = source.shown
    return {"queries": queries, "candidates": candidates}


def _benchmark_tasks(comparison, source) -> dict[str, EvalTask]:
    """The benchmark's tasks by name, where `source` is one and runs need it."""
    runs = comparison.runs
    if source is None or not any(t.queries is None for run in runs for t in run.tasks.values()):
        return {}
    try:
        return {task.name: task for task in load_tasks(source)}
    except ValueError as error:
        # a directory of media alone is fine too
        if "nor a directory with" in str(error):
            return {}
        raise


def _query(name, number, source, views):
    entry = {"task": name, "row": number, **source.query(number), "columns": {}, "right": []}
    for key, view in views.items():
        if (found := view.rows.get(number)) is None:
            continue
        labels, ranked = found.pop("labels"), found.pop("ranked")
        found["top"] = [source.candidate(one) for one in ranked]
        entry["columns"][key] = found
        if not entry["right"]:
            entry["right"] = [source.candidate(one) for one in labels[:RIGHT]]
            entry["right_count"] = len(labels)
    return entry


class _View:
    """What one column did with the chosen queries. rows: query number -> its part of the entry."""

    def __init__(self, comparison: Comparison, row: Row, column: Column, rows: Iterable[int]):
        task = comparison.runs[column.run].tasks[row.name]
        chosen, self.rows = set(rows), {}
        similarity = _similarity(task, column.pair)
        texts = task.texts("qry") if column.pair[0] == "gen" else None
        for number, prediction in enumerate(task.iterate_predictions(*column.pair)):
            if number not in chosen:
                continue
            ranked, labels = prediction["prediction"], _listed(prediction["label"])
            right = set(labels)
            rank = next((place for place, one in enumerate(ranked, 1) if one in right), None)
            best = ranked[rank - 1] if rank else None
            self.rows[number] = {
                "value": float(row.values[column.key][number]),
                "hit": bool(row.hits[column.key][number] > 0),
                "rank": rank,
                "of": len(ranked),
                "ranked": ranked[:TOP],
                "top_right": [one in right for one in ranked[:TOP]],
                "labels": labels,
                "top_similarity": [similarity(number, one) for one in ranked[:TOP]],
                "right_similarity": similarity(number, best),
                "wrote": _wrote(texts[number]) if texts else None,
            }


class _Items:
    """Texts and pictures of a task's queries and candidates, from an index of any of the runs, else
    from the benchmark. shown: the candidates that were asked for, in that order.
    """

    def __init__(self, comparison, row, benchmark, pictures):
        self.pictures, self.shown, self._places = pictures, [], {}
        own = {number: comparison.runs[number].tasks[row.name] for number in row.digests}
        first = next((task for task in own.values() if task.queries is not None), None)
        self.items = first.queries if first else None
        self.candidates = {}
        for task in own.values():
            for entry in task.candidates or ():
                self.candidates.setdefault(entry["name"], entry)
        if self.items is None and benchmark and len(benchmark.queries) == row.entry["queries"]:
            self.items = [query.item for query in benchmark.queries]
        if not self.candidates and benchmark:
            self.candidates = benchmark.candidates
        self.wrote = {
            str(number): dict(zip(task.candidate_names, task.texts("tgt") or (), strict=False))
            for number, task in own.items()
            if task.files.texts("tgt", "gen").is_file()
        }

    def query(self, number):
        item = self.items[number] if self.items else {}
        return {"text": _clip(item.get("text")), "media": self.pictures.of(item)}

    def candidate(self, name):
        """Its place in `shown`."""
        if name not in self._places:
            self._places[name] = len(self.shown)
            item = self.candidates.get(name, {})
            wrote = {run: _wrote(texts[name]) for run, texts in self.wrote.items() if name in texts}
            media = self.pictures.of(item)
            text = _clip(item.get("text"))
            self.shown.append({"name": str(name), "text": text, "media": media, "wrote": wrote})
        return self._places[name]


def _choose(comparison, row, pair, own, count):
    """Rows of the listed queries, in the task's order."""
    kinds = comparison.outcome_kinds(row, *pair) if pair else None
    if kinds is None:
        hits = row.hits[own[0].key]
        kinds = np.where(hits > 0, "both_right", "both_wrong")
    groups = [np.flatnonzero(kinds == kind) for kind in ("loss", "win", "both_wrong", "both_right")]
    turns = [group for turn in zip_longest(*map(range, map(len, groups))) for group in _taken(turn)]
    shares = np.bincount(turns[:count], minlength=len(groups))
    # evenly over the task, so that a class is not listed by its first rows alone
    chosen = [
        rows[np.linspace(0, len(rows) - 1, share, dtype=int)]
        for rows, share in zip(groups, shares, strict=True)
    ]
    return sorted(int(row) for rows in chosen for row in rows)


def _taken(turn):
    return [group for group, row in enumerate(turn) if row is not None]


def _similarity(task: TaskRun, pair):
    """Function of a query's row and a candidate's name: their dot product, None without vectors."""
    try:
        queries, candidates = task.vectors("qry", pair[0]), task.vectors("tgt", pair[1])
        row_of = {name: row for row, name in enumerate(task.candidate_names)}
    except ValueError:
        return lambda number, name: None
    return lambda number, name: (
        float(queries[number] @ candidates[row_of[name]]) if name in row_of else None
    )


def _wrote(row):
    wrote = {key: _clip(row.get(key)) for key in ("reasoning", "summary")}
    wrote["finish"] = row.get("finish")
    if isinstance(row.get("tokens"), int):
        wrote["tokens"] = row["tokens"]
    return wrote


def _clip(text):
    if text is None:
        return None
    text = str(text)
    return text if len(text) <= TEXT else f"{text[:TEXT]} … ({len(text)} characters in all)"


def _listed(label):
    return list(label) if isinstance(label, list | tuple) else [label]
