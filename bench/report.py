"""Write the measured tables of the docs from the result files, so that no figure is typed by hand.

    python -m bench --json bench/results/cpu.json      # measure
    python -m bench.report                             # every file in bench/results -> docs/performance.md, numerics.md

A table stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; `--check` only says whether it is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from bench.case import OURS
from bench.claims import verdicts
from bench.engine.composed import composed
from bench.results import MIB, load, number
from bench.runner import Row

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / "performance.md", ROOT / "docs" / "numerics.md"]
RESULTS = ROOT / "bench" / "results"
BLOCK = re.compile(
    r"(<!-- begin: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end: (?P=name) -->)", re.DOTALL
)


def main(argv: list[str] | None = None) -> int:
    """0 if the pages are up to date (afterwards), 1 if `--check` finds that one is not."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: bench/results/*.json")
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--page", nargs="+", type=Path, default=PAGES, help="default: both pages")
    arguments = parser.parse_args(argv)
    files, stale = arguments.files or sorted(RESULTS.glob("*.json")), 0
    for page in arguments.page:
        text = page.read_text()
        written = render(text, files)
        if arguments.check:
            print(f"{page.name} is {'up to date' if written == text else 'out of date'}")
            stale += written != text
        else:
            page.write_text(written)
    return int(stale > 0)


def render(page: str, files: list[Path]) -> str:
    """The page with every block filled from the files' rows.

    Raises:
        ValueError: a file is no result file, or a block has a name that is not known.
    """
    rows = [row for file in files for row in load(file)]
    rows += composed(rows)

    def fill(block: re.Match) -> str:
        kind, _, device = block["name"].partition("-")
        if kind not in TABLES or device not in ("cpu", "cuda"):
            known = ", ".join(f"{kind}-{device}" for kind in TABLES for device in ("cpu", "cuda"))
            raise ValueError(f"block {block['name']!r}; the page may have {known}")
        own = [row for row in rows if row["device"] == device]
        return f"{block[1]}{TABLES[kind](own, device)}\n{block[4]}"

    return BLOCK.sub(fill, page)


def claims_table(rows: list[Row], device: str) -> str:
    """Every aim beside what was measured."""
    lines = []
    for claim, measured, reason in verdicts(rows, device):
        sign = "≥" if claim.at_least else "≤"
        if measured is None:
            result, mark = reason, "–"
        else:
            result, mark = (
                _figure(measured, claim.wanted),
                "yes" if claim.met(measured) else "**no**",
            )
        wanted = f"{sign} {_figure(claim.wanted, claim.wanted)}"
        lines.append((f"{claim.suite} {claim.case}", claim.what, wanted, result, mark))
    return _markdown(("case", "figure", "aim", "measured", "met"), lines)


def rows_table(rows: list[Row], device: str) -> str:
    """Every variant of every loss: time, floor, memory, error; what it was measured on above each table."""
    losses = [row for row in rows if not row["suite"].startswith("engine_")]
    return _by_place(losses, device, ROW_HEADER, _row_cells)


def engine_table(rows: list[Row], device: str) -> str:
    """Every variant of the engine's cases: time, rates, how often ours goes into it, memory, error of the vectors."""
    order = ("generate", "composed", "decode", "phases", "disc", "memory")
    rank = {f"engine_{name}": place for place, name in enumerate(order)}
    own = sorted((row for row in rows if row["suite"] in rank), key=lambda row: rank[row["suite"]])
    ours = {(row["suite"], row["case"]): row for row in own if row["variant"] == OURS}

    def cells(row: Row) -> tuple[str, ...]:
        return _engine_cells(row, ours.get((row["suite"], row["case"]), {}))

    return _by_place(own, device, ENGINE_HEADER, cells)


def _by_place(rows: list[Row], device: str, header: tuple[str, ...], cells) -> str:
    if not rows:
        return _not_measured(device)
    parts = []
    for place in dict.fromkeys(_place(row) for row in rows):
        here = [row for row in rows if _place(row) == place]
        parts += [place, _markdown(header, [cells(row) for row in here])]
    return "\n\n".join(parts)


def errors_table(rows: list[Row], device: str) -> str:
    """The worst gradient of every variant that ran, one line per case, ours first."""
    lines = []
    for case in dict.fromkeys((row["suite"], row["case"]) for row in rows):
        found = {}
        for row in (row for row in rows if (row["suite"], row["case"]) == case):
            gradients = [value for name, value in row.get("errors", {}).items() if name != "output"]
            if gradients:
                found[row["variant"]] = max(gradients)
        if found:
            cells = [f"{found[name]:.1e}" if name in found else "–" for name in ERROR_VARIANTS]
            lines.append((" ".join(case), *cells))
    if not lines:
        return _not_measured(device)
    return _markdown(("case", *ERROR_VARIANTS), lines)


def _not_measured(device: str) -> str:
    return (
        f"Not measured yet: `python -m bench --device {device} --json bench/results/{device}.json`."
    )


TABLES = {
    "claims": claims_table,
    "rows": rows_table,
    "engine": engine_table,
    "errors": errors_table,
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

ENGINE_HEADER = (
    "case", "variant", "ms (p20 to p80)", "embeddings/s", "tokens/s", "times ours", "peak MiB", "/ recipe",
    "vectors off by",
)  # fmt: skip


def _place(row: Row) -> str:
    return (
        f"Measured on {row['hardware']}, {row['threads']} threads, torch {row['torch']}, triton {row['triton']}, "
        f"commit `{row['commit']}`."
    )


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


def _engine_cells(row: Row, ours: Row) -> tuple[str, ...]:
    name = f"**{row['variant']}**" if row["variant"] == OURS else row["variant"]
    case = f"{row['suite'].removeprefix('engine_')} {row['case']}"
    if row["status"] != "ok":
        return (case, name, row["status"], *["–"] * (len(ENGINE_HEADER) - 3))
    time, peak, sizes = row.get("median_ms"), row.get("peak_bytes"), row["sizes"]
    spread = f" ({number(row['p20_ms'])} to {number(row['p80_ms'])})" if "p20_ms" in row else ""
    speedup = ours.get("speedup", {}).get(row["variant"])
    rates = [sizes[kind] * 1e3 / time if time and kind in sizes else None
             for kind in ("embeddings", "tokens")]  # fmt: skip
    worst = max(row["errors"].values(), default=None)
    return (
        case,
        name,
        number(time) + spread,
        *map(number, rates),
        number(speedup, 2),
        number(None if peak is None else peak / MIB, 1),
        number(row.get("peak_to_baseline"), 3),
        "-" if worst is None else f"{worst:.1e}",
    )


def _figure(value: float, wanted: float) -> str:
    if wanted < 0.01:
        return f"{value:.1e}"
    return f"{value:.3g}" if wanted < 10 else f"{value:.0f}"


def _markdown(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [header, ("---",) * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, json.JSONDecodeError) as error:
        sys.exit(f"python -m bench.report: {error}")
