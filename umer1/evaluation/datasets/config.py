"""One entry of a benchmark YAML file, with the few operations every loader needs."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PROMPT_SETS = ("ume-r1", "vlm2vec")
FRAME_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(slots=True)
class TaskConfig:
    """A YAML entry. `fields` are its keys as written; relative paths are below `basedir`.

    prompts: whose instructions a loader uses where the two evaluations differ, "ume-r1" or
    "vlm2vec".
    """

    name: str
    fields: dict
    basedir: Path
    prompts: str = "ume-r1"
    frame_lists: dict[Path, list[str]] = field(default_factory=dict)

    @property
    def eval_type(self) -> str:
        return self.fields.get("eval_type", "global")

    @property
    def dataset_name(self) -> str:
        return self.fields.get("dataset_name") or self.name

    def path(self, key: str) -> Path:
        """A required path of the entry, below the base directory unless absolute."""
        value = self.fields.get(key)
        if not value:
            raise ValueError(f"{self.name}: the entry has no {key}")
        return self.basedir / value

    def instruction(self, side: str, default: str) -> str:
        """`query_instruction` or `target_instruction` of the entry, else the loader's own."""
        return self.fields.get(f"{side}_instruction", default)

    def rows(self) -> list[dict]:
        """Rows of the entry's `data_path`, a .jsonl file, cut to `num_sample_per_subset`."""
        path = self._data_path()
        if not path.is_file():
            raise ValueError(f"{self.name}: data_path {path} is not a file")
        return self._limit(read_jsonl(path))

    def table(self, name: str) -> list[dict]:
        """A table of a BEIR-style directory, `data_path`/<name>.jsonl (queries, qrels, corpus)."""
        path = self._data_path() / f"{name}.jsonl"
        if not path.is_file():
            raise ValueError(
                f"{self.name}: no table {path}; data_path must hold queries, qrels and corpus.jsonl"
            )
        rows = read_jsonl(path)
        return self._limit(rows) if name == "queries" else rows

    def frames(self, directory: Path) -> list[str] | str:
        """Frames of a video directory as upstream samples them: natural order, `num_frames` evenly
        spaced.

        A directory that is missing or has no pictures comes back as its path, for the missing-media
        count to find.
        """
        return self._sample(self.all_frames(directory)) or str(directory)

    def all_frames(self, directory: Path) -> list[str]:
        """Every picture of a directory in natural order (frame_2 before frame_10)."""
        if directory not in self.frame_lists:
            found = directory.iterdir() if directory.is_dir() else ()
            names = [path.name for path in found if path.suffix.lower() in FRAME_SUFFIXES]
            self.frame_lists[directory] = [
                str(directory / name) for name in sorted(names, key=natural_key)
            ]
        return self.frame_lists[directory]

    def _sample(self, frames):
        count = int(self.fields.get("num_frames", 8))
        if count > len(frames):
            return frames
        return [frames[number] for number in np.linspace(0, len(frames) - 1, count, dtype=int)]

    def _data_path(self) -> Path:
        if not self.fields.get("data_path"):
            raise ValueError(
                f"{self.name}: the entry has no data_path; tables named on the Hub only "
                f"(dataset_name {self.dataset_name!r}) have to be saved locally first"
            )
        return self.path("data_path")

    def _limit(self, rows):
        limit = self.fields.get("num_sample_per_subset")
        # the string "None" means all: only integers and digit strings cut
        if isinstance(limit, str):
            limit = int(limit) if limit.isdigit() else None
        return rows if limit is None else rows[:limit]


def read_jsonl(path: Path) -> list[dict]:
    """Objects of a JSON-lines file; a bad line is one error with file and line number."""
    rows = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise TypeError(f"{path}:{number}: got {type(row).__name__}, need an object")
            rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def natural_key(name: str) -> list:
    """Sort key under which numbers inside names order by value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def column(row: dict, name: str, where: str):
    """A required column; hyphen and underscore spellings are the same name."""
    for spelling in (name, name.replace("-", "_")):
        if spelling in row:
            return row[spelling]
    raise ValueError(f"{where}: no column {name!r}, the row has {', '.join(row) or 'none'}")


def join(instruction: str, text: str) -> str:
    """Instruction, one space, text; an empty text adds nothing."""
    return f"{instruction} {text}" if text else instruction
