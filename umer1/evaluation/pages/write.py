"""Write the report of one or several runs: report.html (one file), report.md and its plots.

    both = compare([load_run("runs/sft"), load_run("runs/rl")])
    write_report(both, "runs/report", data="data/mini")

Pages of the same runs are the same bytes.
"""

import os
from pathlib import Path

from umer1.evaluation.pages.comparison import Comparison, default_pair
from umer1.evaluation.pages.html import render_html
from umer1.evaluation.pages.markdown import render_markdown
from umer1.evaluation.pages.pictures import Pictures
from umer1.evaluation.pages.plots import figures
from umer1.evaluation.pages.queries import collect_queries
from umer1.evaluation.plot_style import save

QUERIES = 1500
PICTURES = 2000


def write_report(
    comparison: Comparison,
    output: str | Path,
    *,
    pair: tuple[str, str] | None = None,
    data: str | Path | None = None,
    queries: int = QUERIES,
    pictures: int = PICTURES,
) -> dict[str, Path]:
    """The written files by name: "html", "markdown", and a picture per plot.

    Args:
        pair: keys of the columns compared first; `default_pair` if not given.
        data: the benchmark, or the directory that the media's paths are below; where the first run
            found it if not given.
        queries, pictures: how many of each the page holds at most.
    """
    if queries < 0 or pictures < 0:
        raise ValueError(f"queries, pictures: got {queries}, {pictures}, need 0 or more")
    if data is not None and not Path(data).exists():
        raise ValueError(f"data: {data} is not there")
    pair = default_pair(comparison) if pair is None else pair
    data = data if data is not None else comparison.runs[0].settings.get("data_basedir")
    stored = Pictures(_media_directory(data), pictures)
    listed = collect_queries(
        comparison,
        pair,
        stored,
        per_task=-(-queries // max(1, len(comparison.tasks))),
        benchmark=data,
    )
    drawn = figures(comparison, pair)
    notes = _picture_notes(stored)
    output = Path(output)
    files = {"html": output / "report.html", "markdown": output / "report.md"}
    page = render_html(comparison, pair, drawn, listed, stored, notes)
    plots = {name: (caption, f"{name}.png") for name, (caption, _) in drawn.items()}
    text = render_markdown(comparison, pair, plots, notes)
    for name, (_, figure) in drawn.items():
        files[name] = output / f"{name}.png"
        save(figure, files[name])
    _write(files["markdown"], text)
    _write(files["html"], page)
    return files


def _media_directory(data):
    if data is None:
        return None
    path = Path(data)
    if path.is_file():
        return path.parent
    # the miniature benchmark keeps what is evaluated in eval/
    return path / "eval" if (path / "eval").is_dir() else path


def _picture_notes(stored):
    notes = []
    if stored.left_out:
        notes.append(
            f"{stored.left_out} pictures are not in this page: it holds at most {stored.most}, "
            "shared evenly by the tasks."
        )
    if stored.unreadable:
        path, reason = next(iter(stored.unreadable.items()))
        hint = "" if stored.data else " (--data names the directory that paths are below)"
        notes.append(
            f"{len(stored.unreadable)} pictures or videos could not be shown{hint}, e.g. {path}: "
            f"{reason}"
        )
    return notes


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # a lone surrogate in somebody's text must not cost the report
        temporary.write_bytes(text.encode("utf-8", "replace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
