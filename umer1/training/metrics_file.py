"""Reading a run's `<stage>_metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path


def read_metrics(path: str | Path, up_to: int | None = None) -> list[dict]:
    """The rows of a `<stage>_metrics.jsonl`; a last line that a kill has cut is left out."""
    rows = []
    path = Path(path)
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if up_to is None or row["step"] <= up_to:
            rows.append(row)
    return rows
