"""Runs side by side: every column of every run per task and per group, with intervals.

    from umer1.evaluation.pages.comparison import compare
    both = compare([load_run("runs/sft"), load_run("runs/rl")])
    both.difference(both.groups["overall"], "0.gen", "1.gen")

A column is one run under one pair of modes, or a run's oracle; its key is "{run number}.{column}".
N queries, B bootstrap draws. Scores are fractions of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from umer1.evaluation.bootstrap import DRAWS, interval, resampled_means
from umer1.evaluation.insights.oracle import oracle
from umer1.evaluation.means.aggregate import aggregate
from umer1.evaluation.modes import parse_modes
from umer1.evaluation.report import group_title
from umer1.evaluation.runs import Run, TaskRun


@dataclass(frozen=True, slots=True)
class Column:
    """pair: (query mode, candidate mode), None for the oracle."""

    key: str
    run: int
    name: str
    label: str

    @property
    def pair(self) -> tuple[str, str] | None:
        return None if self.name == "oracle" else parse_modes([self.name])[0]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its bootstrap interval; low and high are None where rankings are missing.

    tasks: how many tasks it covers. missing: names of the row's tasks that it does not.
    """

    mean: float
    low: float | None
    high: float | None
    tasks: int
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class Row:
    """A task, or a group of tasks. Of a task, by column key: `values` the main metric per query
    [N], `hits` hit@1 [N], both None where there are no rankings; `draws` the bootstrap means [B].
    """

    name: str
    title: str
    tasks: list[str]
    # of a group: the benchmark's tasks that no run has
    absent: list[str] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    hits: dict[str, np.ndarray] = field(default_factory=dict)
    entry: dict = field(default_factory=dict)
    # data digest per run, None where it is not known
    digests: dict[int, str | None] = field(default_factory=dict)

    def same_data(self, one: int, two: int) -> bool:
        """Whether two runs are known to have used the same data, to be compared query by query."""
        digest = self.digests.get(one)
        return one == two or (digest is not None and digest == self.digests.get(two))


@dataclass(slots=True)
class Comparison:
    """labels: what the runs are called. tasks and groups: rows by name, in the runs' order."""

    runs: list[Run]
    labels: list[str]
    columns: list[Column]
    tasks: dict[str, Row]
    groups: dict[str, Row]
    notes: list[str]

    def column(self, key: str) -> Column:
        return next(column for column in self.columns if column.key == key)

    def estimate(self, row: Row, key: str) -> Estimate | None:
        """Mean of a column over a row; None when no task of it has the column."""
        members = [self.tasks[name] for name in row.tasks]
        present = [task for task in members if key in task.means]
        if not present:
            return None
        mean = float(np.mean([task.means[key] for task in present]))
        draws = [task.draws.get(key) for task in present]
        return _estimate(mean, draws, row, present)

    def difference(self, row: Row, first: str, second: str) -> Estimate | None:
        """second - first, paired by query; over the tasks that have both columns."""
        members = [self.tasks[name] for name in row.tasks]
        present = [task for task in members if first in task.means and second in task.means]
        if not present:
            return None
        mean = float(np.mean([task.means[second] - task.means[first] for task in present]))
        draws = [
            task.draws[second] - task.draws[first]
            if first in task.draws and second in task.draws
            else None
            for task in present
        ]
        return _estimate(mean, draws, row, present)

    def outcomes(self, row: Row, first: str, second: str) -> dict[str, int] | None:
        """How many queries `second` wins and loses against `first`, and ties right and wrong (by
        hit@1). None where the two did not answer the same queries.
        """
        counts = {"win": 0, "loss": 0, "both_right": 0, "both_wrong": 0}
        counted = False
        for name in row.tasks:
            kinds = self.outcome_kinds(self.tasks[name], first, second)
            if kinds is None:
                continue
            counted = True
            for kind in counts:
                counts[kind] += int((kinds == kind).sum())
        return counts if counted else None

    def outcome_kinds(self, task: Row, first: str, second: str) -> np.ndarray | None:
        """Per query: win, loss, both_right or both_wrong, as strings [N]."""
        values = [task.values.get(key) for key in (first, second)]
        runs = [self.column(key).run for key in (first, second)]
        if any(value is None for value in values) or not task.same_data(*runs):
            return None
        equal = np.where(task.hits[second] > 0, "both_right", "both_wrong")
        return np.where(
            values[1] > values[0], "win", np.where(values[1] < values[0], "loss", equal)
        )


def compare(
    runs: Sequence[Run],
    labels: Sequence[str] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Comparison:
    """Set runs side by side. labels: what to call them; their directories' names by default."""
    if not runs:
        raise ValueError("runs: got none, need at least one")
    names = _labels(runs) if labels is None else list(labels)
    if len(names) != len(runs) or len(set(names)) != len(names):
        raise ValueError(f"labels: got {names} for {len(runs)} runs, need one each, all different")
    columns, notes = _columns(runs, names), []
    tasks = {}
    for name in dict.fromkeys(name for run in runs for name in run.tasks):
        tasks[name] = _task_row(name, runs, names, columns, seed, draws, notes)
    groups = {
        name: Row(name, group_title(name), content["tasks"], content.get("absent", []))
        for name, content in aggregate({name: row.entry for name, row in tasks.items()}).items()
    }
    return Comparison(list(runs), names, columns, tasks, groups, notes)


def default_pair(comparison: Comparison) -> tuple[str, str] | None:
    """The two columns whose difference is shown first: the best common mode of the first two runs,
    or disc and gen of the only one. None with a single column.
    """
    columns = [column for column in comparison.columns if column.pair is not None]
    by_run = [[c.name for c in columns if c.run == run] for run in range(len(comparison.runs))]
    if len(by_run) > 1:
        common = [name for name in ("gen", "disc", *by_run[0]) if name in by_run[0]]
        shared = next((name for name in common if name in by_run[1]), None)
        pair = (shared or by_run[0][0], shared or by_run[1][0])
        return f"0.{pair[0]}", f"1.{pair[1]}"
    if {"disc", "gen"} <= set(by_run[0]):
        return "0.disc", "0.gen"
    return (columns[0].key, columns[1].key) if len(columns) > 1 else None


def find_pair(comparison: Comparison, named: str | None) -> tuple[str, str] | None:
    """The columns that "first,second" names by label or key; `default_pair` without a name."""
    if named is None:
        return default_pair(comparison)
    columns = [column for column in comparison.columns if column.pair is not None]
    keys = {column.label: column.key for column in columns}
    keys |= {column.key: column.key for column in columns}
    parts = tuple(part.strip() for part in named.split(","))
    if len(parts) != 2 or not set(parts) <= set(keys):
        known = ", ".join(column.label for column in columns)
        raise ValueError(f"compare: got {named!r}, need two of these with a comma: {known}")
    return keys[parts[0]], keys[parts[1]]


def _task_row(name, runs, labels, columns, seed, draws, notes):
    first = next(run.tasks[name] for run in runs if name in run.tasks)
    row = Row(name, name, [name], entry=first.entry)
    for number, run in enumerate(runs):
        if name not in run.tasks:
            continue
        task = run.tasks[name]
        row.digests[number] = task.entry.get("data")
        own = [column for column in columns if column.run == number]
        for column in own:
            if column.name in task.entry["main"]:
                row.means[column.key] = task.entry["main"][column.name]
        _add_values(row, task, own, labels[number], notes)
        keys = [column.key for column in own if column.key in row.values]
        if keys:
            # the data's digest names the resamples: equal data, equal draws, paired differences
            identity = f"{name} {row.digests[number] or f'unknown {number}'}"
            stacked = np.stack([row.values[key] for key in keys])
            means = resampled_means(stacked, identity, seed=seed, draws=draws)
            row.draws.update(zip(keys, means, strict=True))
    notes += _data_notes(row, labels)
    return row


def _data_notes(row, labels):
    known = {digest for digest in row.digests.values() if digest is not None}
    if len(known) > 1:
        yield f"{row.name}: the runs used different data, so their difference is not paired"
    unknown = [labels[number] for number, digest in row.digests.items() if digest is None]
    if unknown and len(row.digests) > 1:
        yield (
            f"{row.name}: which data {' and '.join(unknown)} used is not known (no digest in the "
            "report), so differences to other runs are not paired"
        )


def _add_values(row, task: TaskRun, columns, label, notes):
    metric = task.entry["main_metric"]
    for column in columns:
        if column.pair is None or column.key not in row.means:
            continue
        if not task.files.scored(*column.pair, "pred.jsonl").is_file():
            notes.append(f"{row.name}, {column.label}: no rankings in {label}, so no interval")
            continue
        row.values[column.key] = task.per_query(metric, *column.pair)
        row.hits[column.key] = task.per_query("hit@1", *column.pair)
        mean = float(row.values[column.key].mean())
        if abs(mean - row.means[column.key]) > 1e-9:
            notes.append(
                f"{row.name}, {column.label}: reported {100 * row.means[column.key]:.2f}, its "
                f"rankings give {100 * mean:.2f}; intervals are of the latter"
            )
    same = {column.name: column.key for column in columns}
    oracle_key = same.get("oracle")
    if oracle_key in row.means and all(same.get(mode) in row.values for mode in ("disc", "gen")):
        disc, gen = row.values[same["disc"]], row.values[same["gen"]]
        row.values[oracle_key] = oracle(disc, gen)
        row.hits[oracle_key] = oracle(row.hits[same["disc"]], row.hits[same["gen"]])


def _estimate(mean, draws, row, present):
    low = high = None
    if all(one is not None for one in draws):
        low, high = interval(np.mean(draws, axis=0))
    kept = {task.name for task in present}
    missing = tuple(name for name in [*row.tasks, *row.absent] if name not in kept)
    return Estimate(mean, low, high, len(present), missing)


def _columns(runs, labels):
    columns = []
    for number, run in enumerate(runs):
        found = dict.fromkeys(name for task in run.tasks.values() for name in task.entry["main"])
        names = [name for name in found if name != "oracle"] + ["oracle"] * ("oracle" in found)
        for name in names:
            label = name if len(runs) == 1 else f"{labels[number]} {name}"
            columns.append(Column(f"{number}.{name}", number, name, label))
    return columns


def _labels(runs):
    """The shortest ends of the directories' paths that tell the runs apart."""
    parts = [Path(run.directory).resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"runs: {runs[0].directory} is given twice")
