"""`python -m bench report`: the measured tables and plots of the docs and the README, from the result files.

    python -m bench --json bench/results/cpu.json      # measure
    python -m bench report                             # every file in bench/results -> README.md, docs/, docs/images/

A table stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; `--check` only says whether all is up to date.
No figure is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from bench.case import OURS
from bench.claims import verdicts
from bench.engine.composed import composed
from bench.plots import drawable, plot
from bench.report_engine import engine_table, query_table
from bench.report_text import Found, by_place, markdown, not_measured
from bench.results import MIB, number, read
from bench.runner import Row
from bench.training import table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "numerics.md"]
RESULTS = ROOT / "bench" / "results"
ELSEWHERE = ("serving-load",)  # blocks that another command writes: bench.serving_load
BLOCK = re.compile(
    r"(<!-- begin: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end: (?P=name) -->)", re.DOTALL
)


def main(argv: list[str] | None = None) -> int:
    """0 if everything is up to date (afterwards), 1 if `--check` finds that something is not, 2 for a wrong file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: bench/results/*.json")
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--page", nargs="+", type=Path, default=PAGES, help="default: all pages")
    arguments = parser.parse_args(argv)
    files, stale = arguments.files or sorted(RESULTS.glob("*.json")), 0
    try:
        for page in arguments.page:
            text = page.read_text()
            written = render(text, files)
            if arguments.check:
                good = written == text and not missing_images(page, text)
                print(f"{page.name} is {'up to date' if good else 'out of date'}")
                stale += not good
            else:
                page.write_text(written)
                draw(page, written, files)
    except (ValueError, OSError) as error:
        print(f"python -m bench report: {error}", file=sys.stderr)
        return 2
    return int(stale > 0)


def render(page: str, files: list[Path]) -> str:
    """The page with every block filled from the files' rows.

    Raises:
        ValueError: a file is no result file, or a block has a name that is not known.
    """
    contents = [read(file) for file in files]

    def fill(block: re.Match) -> str:
        if block["name"] in ELSEWHERE:
            return block[0]
        kind, _, device = block["name"].partition("-")
        if kind not in TABLES or device not in DEVICES:
            known = ", ".join(f"{kind}-{device}" for kind in TABLES for device in DEVICES)
            raise ValueError(f"block {block['name']!r}; the page may have {known}")
        return f"{block[1]}{TABLES[kind](of_device(contents, device))}\n{block[4]}"

    return BLOCK.sub(fill, page)


def of_device(contents: list[dict], device: str) -> Found:
    rows = [row for content in contents for row in content["rows"] if row["device"] == device]
    rows += composed(rows)
    steps = [each for content in contents for each in content.get("steps", [])]
    return Found(device, rows, steps if device == "cuda" else [])


def draw(page: Path, text: str, files: list[Path]) -> None:
    """The plots that the page shows, into `images` beside it."""
    devices = {block["name"].partition("-")[2] for block in BLOCK.finditer(text) if block["name"].startswith("plots-")}  # fmt: skip
    rows = [row for file in files for row in read(file)["rows"] if row["device"] in devices]
    if not rows:
        return
    try:
        plot(rows, page.parent / "images")
    except ImportError:
        print("matplotlib is not installed: the plots are left as they are", file=sys.stderr)


def missing_images(page: Path, text: str) -> list[str]:
    """Pictures that a page's blocks show and that are not there."""
    names = [name for block in BLOCK.finditer(text) for name in IMAGE.findall(block["body"])]
    return [name for name in names if not (page.parent / name).exists()]


def claims_table(found: Found) -> str:
    """Every aim beside what was measured."""
    lines = []
    for claim, measured, reason in verdicts(found.rows, found.device):
        sign = "≥" if claim.at_least else "≤"
        if measured is None:
            result, mark = reason, "–"
        else:
            result, mark = (
                _figure(measured, claim.wanted),
                "yes" if claim.met(measured) else "**no**",
            )
        wanted = f"{sign} {_figure(claim.wanted, claim.wanted)}"
        name = f"{claim.suite} {claim.case}"
        if claim.variant != OURS:
            name += f" ({claim.variant})"
        lines.append((name, claim.what, wanted, result, mark))
    return markdown(("case", "figure", "aim", "measured", "met"), lines)


def rows_table(found: Found) -> str:
    """Every variant of every loss: time, floor, memory, error; what it was measured on above each table."""
    losses = [
        row for row in found.rows if not row["suite"].startswith(("engine_", "eval_", "train_"))
    ]
    return by_place(losses, found.device, ROW_HEADER, _row_cells)


def train_table(found: Found) -> str:
    """Every variant of the training suites: time, rates, how often ours goes into it, utilisation, memory, error."""
    own = [row for row in found.rows if row["suite"].startswith("train_")]
    ours = {(row["suite"], row["case"]): row for row in own if row["variant"] == OURS}

    def cells(row: Row) -> tuple[str, ...]:
        return table.cells(row, ours.get((row["suite"], row["case"]), {}))

    return by_place(own, found.device, table.HEADER, cells)


def recipe_table(found: Found) -> str:
    """What the whole 2B recipe would take at the measured rates."""
    lines = table.recipe_lines(found.rows)
    return markdown(table.RECIPE_HEADER, lines) if lines else not_measured(found.device)


def errors_table(found: Found) -> str:
    """The worst gradient of every variant that ran, one line per case, ours first."""
    lines = []
    for case in dict.fromkeys((row["suite"], row["case"]) for row in found.rows):
        worst = {}
        for row in (row for row in found.rows if (row["suite"], row["case"]) == case):
            gradients = [value for name, value in row.get("errors", {}).items() if name != "output"]
            if gradients:
                worst[row["variant"]] = max(gradients)
        if worst:
            cells = [f"{worst[name]:.1e}" if name in worst else "–" for name in ERROR_VARIANTS]
            lines.append((" ".join(case), *cells))
    if not lines:
        return not_measured(found.device)
    return markdown(("case", *ERROR_VARIANTS), lines)


def steps_table(found: Found) -> str:
    """What the steps of the GPU suite came to."""
    if not found.steps:
        return not_measured(found.device)
    lines = [
        (each["step"], each["status"], f"{each.get('seconds', 0.0):.0f}", each.get("detail", ""))
        for each in found.steps
    ]
    return markdown(("step", "result", "seconds", ""), lines)


def plots(found: Found) -> str:
    """The pictures that these rows allow."""
    shown = [f"![{about}](images/{name})" for name, about in drawable(found.rows)]
    return "\n\n".join(shown) or "No plot yet."


def state(found: Found) -> str:
    """One sentence: how many aims are measured and met, and on what."""
    device = {"cpu": "CPU", "cuda": "GPU"}[found.device]
    every = verdicts(found.rows, found.device)
    measured = [(verdict.claim, verdict.measured) for verdict in every if verdict.measured is not None]  # fmt: skip
    if not measured:
        return f"Nothing has been measured on a {device} yet."
    met = sum(claim.met(value) for claim, value in measured)
    hardware = ", ".join(dict.fromkeys(row["hardware"] for row in found.rows))
    return f"{device} ({hardware}): {len(measured)} of {len(every)} aims are measured, {met} of them met."  # fmt: skip


DEVICES = ("cpu", "cuda")
IMAGE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
TABLES: dict[str, Callable[[Found], str]] = {
    "claims": claims_table,
    "rows": rows_table,
    "engine": engine_table,
    "query": query_table,
    "train": train_table,
    "recipe": recipe_table,
    "errors": errors_table,
    "steps": steps_table,
    "plots": plots,
    "state": state,
}
ERROR_VARIANTS = (
    OURS,
    "eager",
    "eager-bf16",
    "eager-fp32-product",
    "compile-bf16",
    "torch-chunked",
    "liger",
)
ROW_HEADER = (
    "case", "variant", "ms (p20 to p80)", "% of floor", "time / best peer", "peak MiB", "/ eager", "gradient error",
)  # fmt: skip


def _row_cells(row: Row) -> tuple[str, ...]:
    name = f"**{row['variant']}**" if row["variant"] == OURS else row["variant"]
    case = f"{row['suite']} {row['case']}"
    if row["status"] != "ok":
        return (case, name, row["status"], *["–"] * (len(ROW_HEADER) - 3))
    gradients = [f"{who} {error:.1e}" for who, error in row["errors"].items() if who != "output"]
    peak = row.get("peak_bytes")
    return (
        case,
        name,
        f"{number(row.get('median_ms'))} ({number(row.get('p20_ms'))} to {number(row.get('p80_ms'))})",
        number(row.get("percent_of_floor"), 0),
        number(row.get("time_to_best_peer"), 2),
        row.get("peak_method", "-") if peak is None else number(peak / MIB, 1),
        number(row.get("peak_to_baseline"), 3),
        ", ".join(gradients) or "-",
    )


def _figure(value: float, wanted: float) -> str:
    if wanted < 0.01:
        return f"{value:.1e}"
    return f"{value:.3g}" if wanted < 10 else f"{value:.0f}"
