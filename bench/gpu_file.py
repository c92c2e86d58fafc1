"""The result file of one GPU: its environment, what every step came to, the rows of `python -m bench`; and its table."""

from __future__ import annotations

from pathlib import Path

from bench.case import OURS
from bench.environment import environment
from bench.results import MIB, number, read, write
from bench.runner import Row
from bench.steps import Step

# what two files must have in common for one to continue the other
SAME = ("gpu", "driver", "cuda", "python", "packages", "sources")


class GpuFile:
    """Written after every change. A file of another environment is begun anew."""

    def __init__(self, path: Path):
        self.path = path
        here = environment()
        content = read(path) if path.exists() else {}
        if not same(content.get("environment", {}), here):
            content = {}
        self.content = {"rows": [], "steps": [], **content, "environment": here}

    @property
    def rows(self) -> list[Row]:
        return self.content["rows"]

    @property
    def steps(self) -> list[dict]:
        return self.content["steps"]

    def add_step(self, made: Step) -> None:
        """In place of an earlier one of that name."""
        others = [each for each in self.steps if each["step"] != made.step]
        self.content["steps"] = [*others, made.to_dict()]
        write(self.path, self.content)

    def read_again(self) -> None:
        """`python -m bench` has written rows into it."""
        if self.path.exists():
            self.content |= read(self.path)


def same(one: dict, other: dict) -> bool:
    """Whether results of these two environments belong into one file."""
    return all(one.get(name, "") == other.get(name, "") for name in SAME)


def summary(file: GpuFile) -> str:
    """Everything in one table, and what was skipped below it."""
    lines = [("step or case", "result", "s or ms", "% floor", "peak MiB", "worst error")]
    lines += [
        (each["step"], each["status"], f"{each.get('seconds', 0.0):.0f} s", "", "", "")
        for each in file.steps
    ]
    lines += [_cells(row) for row in file.rows if row["family"] == OURS]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *_skipped(file)])


def _cells(row: Row) -> tuple[str, ...]:
    name = f"{row['suite']} {row['case']} {row['variant'].removeprefix(OURS)}".rstrip()
    if row["status"] != "ok":
        return (name, row["status"][:60], "", "", "", "")
    peak, worst = row.get("peak_bytes"), max(row["errors"].values(), default=None)
    return (
        name,
        "ok",
        f"{number(row.get('median_ms'))} ms",
        number(row.get("percent_of_floor"), 0),
        number(None if peak is None else peak / MIB, 1),
        "-" if worst is None else f"{worst:.1e}",
    )


def _skipped(file: GpuFile) -> list[str]:
    found = [f"skipped {each['step']}: {each['detail']}" for each in file.steps if each["status"] == "skipped"]  # fmt: skip
    peers = {
        row["variant"]: row["status"]
        for row in file.rows
        if row["family"] != OURS and "not installed" in row["status"]
    }
    return found + [f"skipped peer {name}: {why}" for name, why in peers.items()]
