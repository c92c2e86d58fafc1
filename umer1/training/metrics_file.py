"""Reading what a run writes line by line: its `<stage>_metrics.jsonl`, its skipped pairs."""

from __future__ import annotations

import json
from pathlib import Path


def read_metrics(path: str | Path, up_to: int | None = None) -> list[dict]:
    """The rows of a `<stage>_metrics.jsonl`."""
    return [row for row in read_rows(path) if up_to is None or row["step"] <= up_to]


def read_rows(path: str | Path) -> list[dict]:
    """JSON objects, one a line; a line that a kill has cut is left out."""
    rows = []
    path = Path(path)
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
