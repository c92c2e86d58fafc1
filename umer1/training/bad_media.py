"""Media that cannot be used: what they are called, what is done about them, how they are counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from umer1.media import MediaError

POLICIES = ("fatal", "skip")


class BadMedium(MediaError):
    """A missing or broken medium; the message names data file, record, side, medium and reason."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """One pair that was replaced by another of its source."""

    step: int
    record: str  # file and record
    source: str
    kind: str  # "medium", or "record" for one that does not fit the format or max_length
    reason: str
    replaced_by: str


class SkipLog:
    """Counts skipped pairs by source, and keeps one line of each in a file.

    Args:
        path: JSON lines; made when the first pair is skipped. Lines of `start_step` and later are
            dropped: a resumed run meets those pairs again.
    """

    def __init__(self, path: Path, start_step: int = 0):
        self.path, self.by_source = path, Counter()
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] < start_step]
        if len(kept) < len(lines):
            path.write_text("".join(kept))
        self.by_source.update(json.loads(line)["source"] for line in kept)

    @property
    def count(self) -> int:
        return sum(self.by_source.values())

    def add(self, skipped: list[Skipped]) -> None:
        if not skipped:
            return
        self.by_source.update(each.source for each in skipped)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.writelines(json.dumps(asdict(each)) + "\n" for each in skipped)

    def summary(self) -> str:
        """A line for the end of the run; "" if nothing was skipped."""
        if not self.count:
            return ""
        counts = ", ".join(f"{name} {count}" for name, count in self.by_source.most_common())
        return f"{self.count} pairs could not be used and were replaced ({counts}): {self.path}"
