"""Result files: JSON with everything, Liger's CSV columns as an export, a table for the terminal."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path

from bench.case import OURS
from bench.environment import environment
from bench.runner import NOT_REACHED, Row

MIB = 2**20
# the columns of Liger-Kernel's benchmark data, in their order; its tools read this file
LIGER_COLUMNS = (
    "kernel_name", "kernel_provider", "kernel_operation_mode", "metric_name", "metric_unit", "x_name", "x_label",
    "x_value", "y_value_50", "y_value_20", "y_value_80", "extra_benchmark_config_str", "gpu_name", "timestamp",
    "liger_version",
)  # fmt: skip
X_AXES = {"N": "queries", "T": "tokens", "B": "sequences"}


class Results:
    """A JSON file that is written after every case; cases measured again replace their rows.

    What else the file holds stays as it is.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.content = read(path) if path is not None and path.exists() else {"rows": []}
        self.rows: list[Row] = self.content["rows"]
        self.new: list[Row] = []

    def add(self, rows: list[Row]) -> None:
        measured = {_key(row) for row in rows}
        self.rows = [row for row in self.rows if _key(row) not in measured] + rows
        self.new = [row for row in self.new if _key(row) not in measured] + rows
        if self.path is not None:
            about = {
                "command": " ".join(["python -m bench", *sys.argv[1:]]),
                "environment": environment(),
            }
            self.content = {**self.content, **about, "rows": self.rows}
            write(self.path, self.content)

    def add_partial(self, rows: list[Row]) -> None:
        """Unless the file holds good rows of that case: better those than the half of another measurement."""
        if not is_good([row for row in self.rows if _key(row) == _key(rows[0])]):
            self.add(rows)


def is_good(rows: list[Row]) -> bool:
    """Whether these rows of one case are whole, and nothing of ours failed."""
    return bool(rows) and not any(
        row.get("partial") or has_failed(row) for row in rows if row["family"] == OURS
    )


def has_failed(row: Row) -> bool:
    """Not what cannot run here, for want of a package or a compiler."""
    return row["status"].startswith(("failed", "wrong", NOT_REACHED))


def load(path: Path) -> list[Row]:
    """The rows of a result file.

    Raises:
        ValueError: it is not one.
    """
    return read(path)["rows"]


def read(path: Path) -> dict:
    """All that a result file holds.

    Raises:
        ValueError: it is not one.
    """
    try:
        content = json.loads(path.read_text())
        content["rows"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result file of `python -m bench --json`") from error
    return content


def write(path: Path, content: dict) -> None:
    """All of it or nothing: a reader, or a kill, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_liger_csv(rows: list[Row], path: Path) -> None:
    """Time in ms and peak memory in MB of every row that was measured."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, LIGER_COLUMNS)
        writer.writeheader()
        for row in rows:
            common = _liger_common(row) | {"timestamp": stamp}
            if row.get("median_ms") is not None:
                values = (row["median_ms"], row["p20_ms"], row["p80_ms"])
                writer.writerow(common | _liger_metric("speed", "ms", values))
            if row.get("peak_bytes") is not None:
                values = (row["peak_bytes"] / MIB,) * 3
                writer.writerow(common | _liger_metric("memory", "MB", values))


def table(rows: list[Row]) -> str:
    """The rows of one case, aligned."""
    header = (
        "variant",
        "ms",
        "p20",
        "p80",
        "% floor",
        "/ best peer",
        "MiB",
        "/ baseline",
        "worst error",
    )
    lines = [header]
    for row in rows:
        if row["status"] != "ok":
            lines.append((row["variant"], row["status"]))
            continue
        worst = max(row["errors"].values(), default=None)
        peak = row.get("peak_bytes")
        lines.append(
            (
                row["variant"],
                *(number(row.get(name)) for name in ("median_ms", "p20_ms", "p80_ms")),
                number(row.get("percent_of_floor"), 0),
                number(row.get("time_to_best_peer"), 2),
                number(None if peak is None else peak / MIB, 1),
                number(row.get("peak_to_baseline"), 3),
                "-" if worst is None else f"{worst:.1e}",
            )
        )
    whole = [line for line in lines if len(line) == len(header)]
    widths = [max(len(line[column]) for line in whole) for column in range(len(header))]
    widths[0] = max(len(line[0]) for line in lines)
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        text.append("  ".join(cells) if len(line) == len(header) else f"{cells[0]}  {line[1]}")
    return "\n".join(text)


def number(value: float | None, digits: int | None = None) -> str:
    """Three significant digits, or `digits` after the point; "-" for None."""
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _key(row: Row) -> tuple:
    return row["suite"], row["case"], row["device"]


def _liger_common(row: Row) -> dict:
    axis = next((name for name in X_AXES if name in row["sizes"]), "")
    extra = {**row["sizes"], "dtype": row["dtype"], "case": row["case"]}
    return {
        "kernel_name": row["suite"],
        "kernel_provider": row["variant"],
        "kernel_operation_mode": "full" if len(row.get("errors", ())) > 1 else "forward",
        "x_name": axis,
        "x_label": X_AXES.get(axis, ""),
        "x_value": row["sizes"].get(axis, ""),
        "extra_benchmark_config_str": json.dumps(extra),
        "gpu_name": row["hardware"],
        "liger_version": "",
    }


def _liger_metric(name: str, unit: str, values: tuple[float, float, float]) -> dict:
    columns = ("y_value_50", "y_value_20", "y_value_80")
    return {"metric_name": name, "metric_unit": unit, **dict(zip(columns, values))}
