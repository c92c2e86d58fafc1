"""What the tables of the report are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench.runner import Row


class Found(NamedTuple):
    """What the result files say of one device."""

    device: str
    rows: list[Row]
    steps: list[dict]  # of the GPU suite


def by_place(
    rows: list[Row], device: str, header: tuple[str, ...], cells: Callable[[Row], tuple[str, ...]]
) -> str:
    if not rows:
        return not_measured(device)
    parts = []
    for place in dict.fromkeys(_place(row) for row in rows):
        here = [row for row in rows if _place(row) == place]
        parts += [place, markdown(header, [cells(row) for row in here])]
    return "\n\n".join(parts)


def markdown(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [header, ("---",) * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def not_measured(device: str) -> str:
    command = "make gpu" if device == "cuda" else "python -m bench --json bench/results/cpu.json"
    return f"Not measured yet: `{command}`."


def _place(row: Row) -> str:
    return (
        f"Measured on {row['hardware']}, {row['threads']} threads, torch {row['torch']}, triton {row['triton']}, "
        f"commit `{row['commit']}`."
    )
