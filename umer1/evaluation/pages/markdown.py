"""The report as Markdown: headline, tables, plots, published results, notes, settings."""

from umer1.evaluation.bootstrap import DRAWS
from umer1.evaluation.pages.comparison import Comparison
from umer1.evaluation.pages.published import own_rows, published_columns, published_table
from umer1.evaluation.pages.view import (
    INTERVALS,
    all_notes,
    difference_cell,
    headline,
    score_cell,
    settings_rows,
)

SHOWN_COLUMNS = ("All", "Image", "Video", "VisDoc")
SPECIAL = str.maketrans({character: "\\" + character for character in "\\`*_{}[]<>#|~$&"})


def render_markdown(
    comparison: Comparison,
    pair: tuple[str, str] | None,
    plots: dict[str, tuple[str, str]],
    notes: list[str],
) -> str:
    """plots: name -> (caption, file name beside the page)."""
    parts = [f"# {_text(' and '.join(comparison.labels))}", *map(_text, headline(comparison, pair))]
    groups = list(comparison.groups.values())
    parts += ["## Groups", _scores(comparison, groups, pair, "group")]
    parts += [INTERVALS.format(draws=DRAWS) + " \\* marks a mean that lacks tasks of its group."]
    modalities = dict.fromkeys(row.entry["modality"] for row in comparison.tasks.values())
    parts.append("## Tasks")
    for modality in modalities:
        rows = [row for row in comparison.tasks.values() if row.entry["modality"] == modality]
        parts += [f"### {_text(modality)}", _scores(comparison, rows, pair, "task")]
    if plots:
        parts.append("## Plots")
        parts += [
            f"![{_text(caption)}]({file})\n\n{_text(caption)}" for caption, file in plots.values()
        ]
    parts += ["## Beside published results", *_published(comparison)]
    all_of_them = all_notes(comparison) + notes
    parts += ["## Notes", "\n".join(f"- {_text(note)}" for note in all_of_them) or "None."]
    settings = [[name, *values] for name, values in settings_rows(comparison)]
    parts += ["## Settings", _table(["setting", *comparison.labels], settings, left=99)]
    return "\n\n".join(parts) + "\n"


def _scores(comparison, rows, pair, kind):
    header = [kind, *(column.label for column in comparison.columns)]
    header += ["difference", "wins : losses"] if pair else []
    return _table(header, [_score_row(comparison, row, pair) for row in rows])


def _score_row(comparison, row, pair):
    cells = [score_cell(comparison.estimate(row, column.key)) for column in comparison.columns]
    line = [row.title]
    if pair:
        cells.append(difference_cell(comparison.difference(row, *pair)))
    line += [
        " ".join(filter(None, [one.text + "*" * bool(one.partial), one.range])) for one in cells
    ]
    if pair:
        counts = comparison.outcomes(row, *pair)
        line.append(f"{counts['win']} : {counts['loss']}" if counts else "–")
    return line


def _published(comparison):
    if not own_rows(comparison):
        yield (
            "These runs have no task of MMEB-V2, so nothing of theirs stands beside the published "
            "results; for reference:"
        )
    columns = [*SHOWN_COLUMNS, *(name for name in published_columns() if name not in SHOWN_COLUMNS)]
    rows = [
        [row.name, row.mode, row.revision]
        + [
            f"{row.scores[name]:.1f}" if name in row.scores else _part(row, name)
            for name in columns
        ]
        + [row.source]
        for row in published_table(comparison)
    ]
    yield _table(["model", "mode", "benchmark revision", *columns, "source"], rows, left=3)
    yield (
        "Percent. The benchmark was corrected in November 2025 (labels of ViDoSeek-page and "
        "MMLongBench-page): OOD, VisDoc and All of rows on the old pages do not compare with those "
        "on the fixed ones."
    )


def _part(row, name):
    return f"– ({row.partial[name]})" if name in row.partial else "–"


def _table(header, rows, left=1):
    ruler = [":--" if place < left else "--:" for place in range(len(header))]
    lines = [[_text(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ruler)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text) -> str:
    """Plain text with nothing left that Markdown or HTML would read as markup."""
    return " ".join(str(text).split()).translate(SPECIAL)
