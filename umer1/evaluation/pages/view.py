"""What a report says, in words and cells, before it is HTML or Markdown."""

from dataclasses import asdict, dataclass

from umer1.evaluation.pages.comparison import Comparison, Estimate, Row
from umer1.evaluation.report import group_title

INTERVALS = (
    "Brackets are 95 % percentile bootstrap intervals over queries ({draws} resamples, fixed seed); "
    "tasks are taken as given. Differences resample the same queries on both sides."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """text: the number in percent or points. range: its interval. partial: which tasks it lacks."""

    text: str
    range: str = ""
    partial: str = ""
    value: float | None = None


def score_cell(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell("–")
    return Cell(
        f"{100 * estimate.mean:.1f}", _range(estimate), _partial(estimate), estimate.mean * 100
    )


def difference_cell(estimate: Estimate | None) -> Cell:
    """With a sign, and an arrow where the interval excludes zero."""
    if estimate is None:
        return Cell("–")
    text = f"{100 * estimate.mean:+.1f}".replace("-", "−")
    if estimate.low is not None and estimate.low > 0:
        text = f"▲ {text}"
    elif estimate.high is not None and estimate.high < 0:
        text = f"▼ {text}"
    return Cell(text, _range(estimate), _partial(estimate), estimate.mean * 100)


def describe(row: Row) -> str:
    """What a task is, in a few words; empty for groups."""
    entry = row.entry
    if not entry:
        return _tasks(row)
    kind = entry.get("kind")
    parts = [entry["modality"], entry.get("group"), group_title(kind) if kind else None]
    parts += [entry["main_metric"], f"{entry['queries']} queries"]
    return " · ".join(part for part in parts if part)


def headline(comparison: Comparison, pair: tuple[str, str] | None) -> list[str]:
    """The result in one or two sentences."""
    overall = comparison.groups["overall"]
    if pair is None:
        column = comparison.columns[0]
        cell = score_cell(comparison.estimate(overall, column.key))
        return [f"{column.label} scores {cell.text} {cell.range} over {_tasks(overall)}."]
    first, second = (comparison.column(key).label for key in pair)
    one, two = (score_cell(comparison.estimate(overall, key)) for key in pair)
    estimate = comparison.difference(overall, *pair)
    sentences = [f"{second} scores {two.text}, {first} {one.text}, over {_tasks(overall)}."]
    if estimate is not None:
        gap = f"{abs(100 * estimate.mean):.1f} points"
        if estimate.low is None:
            verdict = f"The difference is {gap}; without rankings it has no interval"
        elif estimate.low <= 0 <= estimate.high:
            verdict = (
                f"The difference of {gap} is within chance: its interval {_range(estimate)} holds 0"
            )
        else:
            side = "above" if estimate.mean > 0 else "below"
            verdict = f"{second} is {gap} {side} {first}, interval {_range(estimate)}"
        if estimate.missing:
            verdict += f", over the {estimate.tasks} tasks that both have"
        sentences.append(verdict + ".")
    counts = comparison.outcomes(overall, *pair)
    if counts:
        total = sum(counts.values())
        sentences.append(
            f"Of {total} queries {second} does better on {counts['win']} and worse on "
            f"{counts['loss']}; both are right on {counts['both_right']} and wrong on "
            f"{counts['both_wrong']}."
        )
    return sentences


def all_notes(comparison: Comparison) -> list[str]:
    """What a reader has to know: the runs' own notes, then the comparison's."""
    notes = []
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        prefix = f"{label}: " if len(comparison.runs) > 1 else ""
        notes += [prefix + note for note in run.report.notes]
    return notes + comparison.notes


def settings_rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """(setting, its value per run), settings in the order in which runs have them."""
    names = dict.fromkeys(name for run in comparison.runs for name in run.settings)
    return [
        (name, [_plain(run.settings.get(name)) for run in comparison.runs]) for name in names
    ] + [("directory", [str(run.directory) for run in comparison.runs])]


def to_dict(comparison: Comparison, pair: tuple[str, str] | None) -> dict:
    """The numbers as plain values: estimates in fractions of 1, the difference second - first."""
    content = {"runs": {}, "compared": None}
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        content["runs"][label] = {"directory": str(run.directory), "settings": run.settings}
    if pair:
        content["compared"] = [comparison.column(key).label for key in pair]
    for kind, rows in (("groups", comparison.groups), ("tasks", comparison.tasks)):
        content[kind] = {name: _row_dict(comparison, row, pair) for name, row in rows.items()}
    return {**content, "notes": all_notes(comparison)}


def _row_dict(comparison, row, pair):
    estimates = {
        column.label: comparison.estimate(row, column.key) for column in comparison.columns
    }
    out = {"main": {name: one and asdict(one) for name, one in estimates.items()}}
    if pair:
        difference = comparison.difference(row, *pair)
        out["difference"] = difference and asdict(difference)
        out["outcomes"] = comparison.outcomes(row, *pair)
    return out


def pair_table(comparison: Comparison) -> dict[str, dict]:
    """Every pair of ranked columns -> per row name [mean, low, high, missing tasks] in points, and
    [wins, losses, both right, both wrong], for the page's choice of what to compare.
    """
    keys = [column.key for column in comparison.columns]
    rows = {f"group:{name}": row for name, row in comparison.groups.items()}
    rows |= {f"task:{name}": row for name, row in comparison.tasks.items()}
    table = {}
    for place, first in enumerate(keys):
        for second in keys[place + 1 :]:
            table[f"{first}|{second}"] = {
                name: _pair_values(comparison, row, first, second) for name, row in rows.items()
            }
    return table


def _pair_values(comparison, row, first, second):
    estimate = comparison.difference(row, first, second)
    if estimate is None:
        return None
    counts = comparison.outcomes(row, first, second)
    return {
        "points": [
            None if one is None else round(100 * one, 4)
            for one in (estimate.mean, estimate.low, estimate.high)
        ],
        "missing": len(estimate.missing),
        "counts": list(counts.values()) if counts else None,
    }


def _range(estimate):
    if estimate.low is None:
        return ""
    return f"[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]".replace("-", "−")


def _partial(estimate):
    if not estimate.missing:
        return ""
    return f"{estimate.tasks} of {estimate.tasks + len(estimate.missing)} tasks"


def _tasks(row):
    size = len(row.tasks) + len(row.absent)
    covered = f"{len(row.tasks)} of {size}" if row.absent else str(size)
    return f"{covered} {'task' if size == 1 else 'tasks'}"


def _plain(value):
    return "–" if value is None else str(value)
