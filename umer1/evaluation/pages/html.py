"""The report as one HTML file: tables, plots, published results and single queries, no other files.

Texts, names and pictures come from data sets and models, which are not trusted: the template
escapes, the page's script writes text and never markup, pictures are encoded anew, and the page's
security policy lets nothing run but that one script and nothing be fetched.
"""

import base64
import hashlib
import json
from pathlib import Path

from umer1.evaluation.bootstrap import DRAWS
from umer1.evaluation.pages.comparison import Comparison
from umer1.evaluation.pages.pictures import Pictures
from umer1.evaluation.pages.published import (
    own_rows,
    published_columns,
    published_table,
    published_tasks,
)
from umer1.evaluation.pages.view import (
    INTERVALS,
    all_notes,
    describe,
    difference_cell,
    headline,
    pair_table,
    score_cell,
    settings_rows,
)
from umer1.evaluation.plot_style import COLORS, themed_svg

TEMPLATES = Path(__file__).with_name("templates")


def render_html(
    comparison: Comparison,
    pair: tuple[str, str] | None,
    figures: dict[str, tuple],
    queries: dict,
    pictures: Pictures,
    notes: list[str],
) -> str:
    """The page. figures: of `plots`. queries: of `queries`. notes: further ones."""
    # a dependency of torch and transformers
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    script = _read("report.js") + _read("report_query.js")
    # one script: functions are hoisted, so the first file's last lines may call the second's
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    published = {name: published_tasks(name) for name in comparison.tasks}
    return environment.get_template("report.html").render(
        title=" and ".join(comparison.labels),
        labels=comparison.labels,
        columns=comparison.columns,
        pair=pair,
        headline=headline(comparison, pair),
        groups=[_row(comparison, row, pair, {}) for row in comparison.groups.values()],
        tasks=[
            _row(comparison, row, pair, published[row.name]) for row in comparison.tasks.values()
        ],
        task_models=list(dict.fromkeys(model for one in published.values() for model in one)),
        intervals=INTERVALS.format(draws=DRAWS),
        plots={
            name: {"caption": caption, "svg": Markup(themed_svg(figure, name))}
            for name, (caption, figure) in figures.items()
        },
        published=published_table(comparison),
        published_columns=published_columns(),
        own=bool(own_rows(comparison)),
        notes=all_notes(comparison) + notes,
        settings=settings_rows(comparison),
        version=_version(),
        style=Markup(_style()),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        data=Markup(_json(_page_data(comparison, queries))),
        pictures=Markup(_json(pictures.uris)),
    )


def _row(comparison, row, pair, published):
    keys = [column.key for column in comparison.columns]
    counts = comparison.outcomes(row, *pair) if pair else None
    return {
        "name": row.name,
        "title": row.title,
        "about": describe(row),
        "cells": [score_cell(comparison.estimate(row, key)) for key in keys],
        "difference": difference_cell(comparison.difference(row, *pair)) if pair else None,
        "counts": f"{counts['win']} : {counts['loss']}" if counts else "–",
        "published": published,
    }


def _page_data(comparison, queries):
    columns = [
        {"key": column.key, "run": column.run, "name": column.name, "label": column.label}
        for column in comparison.columns
    ]
    total = sum(row.entry["queries"] for row in comparison.tasks.values() if row.values)
    same = {name: _same_data(row) for name, row in comparison.tasks.items()}
    pairs = pair_table(comparison)
    return {"columns": columns, "pairs": pairs, "same": same, "total": total, **queries}


def _same_data(row):
    """Pairs of runs "a|b" known to have answered the same queries of a task."""
    runs = row.digests
    return [f"{one}|{two}" for one in runs for two in runs if row.same_data(one, two)]


def _json(content) -> str:
    """JSON that can stand in a script element whatever strings it holds."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _style():
    light, dark = (
        " ".join(f"--{role}: {shades[theme]};" for role, shades in COLORS.items())
        for theme in (0, 1)
    )
    return _read("report.css").replace("{{LIGHT}}", light).replace("{{DARK}}", dark)


def _read(name):
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _version():
    from umer1_kernels import __version__

    return __version__
