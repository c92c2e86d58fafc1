"""Media that cannot be used: what they are called, what is done about them, how they are counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from umer1.data.cache import write_whole
from umer1.media import MediaError
from umer1.training.metrics_file import read_rows

FILE = "{}_skipped_pairs.{}.jsonl"


class BadMedium(MediaError):
    """A missing or broken medium; the message names data file, record, side, medium and reason."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """One pair that was replaced by another of its source."""

    batch: int  # number of the batch
    record: str  # file and record
    source: str
    kind: str  # "medium", or "record" for one that does not fit the format or max_length
    reason: str
    replaced_by: str


class SkipLog:
    """Counts this process's skipped pairs by source, and keeps one line of each in a file.

    Args:
        output: folder of `<stage>_skipped_pairs.<rank>.jsonl`, JSON lines; made when the first pair is skipped.
            Lines of `start_batch` and later are dropped: a resumed run meets those pairs again. The first process
            does that for files of ranks that a run with fewer processes has no more, and counts them.
    """

    def __init__(
        self, output: Path, stage: str, start_batch: int = 0, rank: int = 0, world_size: int = 1
    ):
        self.path, self.by_source = output / FILE.format(stage, rank), Counter()
        files = [self.path] if self.path.exists() else []
        if rank == 0:
            files += _of_gone_ranks(output, stage, world_size)
        for path in files:
            kept = _trimmed(path, start_batch)
            self.by_source.update(row["source"] for row in kept)

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


def _of_gone_ranks(output: Path, stage: str, world_size: int) -> list[Path]:
    found = []
    for path in output.glob(FILE.format(stage, "*")):
        rank = path.name.split(".")[1]
        if rank.isdigit() and int(rank) >= world_size:
            found.append(path)
    return sorted(found)


def _trimmed(path: Path, start_batch: int) -> list[dict]:
    """The rows before `start_batch`, which are all that the file has then."""
    # older runs call the number of the batch "step"
    kept = [row for row in read_rows(path) if row.get("batch", row.get("step")) < start_batch]
    content = "".join(json.dumps(row) + "\n" for row in kept)
    if content != path.read_text():
        write_whole(path, lambda file: file.write(content.encode()))
    return kept
