"""One entry of a benchmark YAML file, with the few operations every loader needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from umer1.evaluation import benchmark
from umer1.evaluation.datasets.hub import LocalTables, Table
from umer1.evaluation.datasets.repository import find_files
from umer1.evaluation.datasets.tables import natural_key, read_table

PROMPT_SETS = ("ume-r1", "vlm2vec", "qwen3-vl-embedding")
PAGE_DATA = ("fixed", "original")
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(slots=True)
class TaskConfig:
    """A YAML entry. `fields` are its keys as written; relative paths are below `basedir`.

    prompts: whose instructions a loader uses where the evaluations differ, one of PROMPT_SETS.
    page_data: "fixed", or "original" for the page tables before their correction in November 2025.
    videos: frame directories found empty -> the video file that could fill them.
    """

    name: str
    fields: dict
    basedir: Path
    prompts: str = "ume-r1"
    tables: LocalTables = field(default_factory=LocalTables)
    page_data: str = "fixed"
    frame_lists: dict[Path, list[str]] = field(default_factory=dict)
    videos: dict[Path, Path] = field(default_factory=dict)
    revision: str | None = None

    @property
    def eval_type(self) -> str:
        return self.fields.get("eval_type", "global")

    @property
    def dataset_name(self) -> str:
        return self.fields.get("dataset_name") or self.name

    @property
    def separate_instruction(self) -> bool:
        """Qwen3-VL-Embedding gives the instruction apart from the text, and none to candidates."""
        return self.prompts == "qwen3-vl-embedding"

    def path(self, key: str) -> Path:
        """A required path of the entry, below the base directory unless absolute."""
        value = self.fields.get(key)
        if not value:
            raise ValueError(f"{self.name}: the entry has no {key}")
        return self.basedir / value

    def instruction(self, side: str, default: str) -> str:
        """`query_instruction` or `target_instruction` of the entry, else the loader's own."""
        own = self.fields.get(f"{side}_instruction")
        if own is not None:
            return own
        if not self.separate_instruction:
            return default
        return default.removesuffix(":") + "." * default.endswith(":") if side == "query" else ""

    def query(self, instruction: str, text: str = "", **media) -> dict:
        """A query's item: instruction, one space, text."""
        instruction = self.instruction("query", instruction)
        if self.separate_instruction:
            return {"text": text, "instruction": instruction, **media}
        return {"text": join(instruction, text), **media}

    def target(self, instruction: str, **media) -> dict:
        """A candidate's item."""
        return {"text": self.instruction("target", instruction), **media}

    def rows(self) -> list[dict]:
        """Rows of the entry's table, cut to `num_sample_per_subset`."""
        return self.limit(read_table(self.table().files))

    def table(self, part: str | None = None) -> Table:
        """The files of the entry's table, or of one `part` of a data set that has several.

        They are those that a map file names, else those of the entry's `data_path`, else what the
        local folders hold of the data set's hub repository.
        """
        entry = benchmark.datasets().get(self.dataset_name)
        repo = entry.repo if entry else self.dataset_name
        if entry and entry.before and self.page_data == "original":
            repo = entry.before
        named = self.tables.place(self.dataset_name, repo)
        if self.fields.get("data_path") and not named:
            found = self._data_path(part)
        else:
            subset = entry.config if entry else self.fields.get("subset_name")
            split = entry.split if entry else self.fields.get("dataset_split", "test")
            found = self.tables.find(self.dataset_name, repo, subset, split, part)
        self.revision = found.revision
        return found

    def limit(self, rows: list) -> list:
        limit = self.fields.get("num_sample_per_subset")
        # the string "None" means all: only integers and digit strings cut
        if isinstance(limit, str):
            limit = int(limit) if limit.isdigit() else None
        return rows if limit is None else rows[:limit]

    def frames(
        self, directory: Path, video: str | None = None, count: int | None = None
    ) -> list[str] | str:
        """Frames of a video directory as upstream samples them: natural order, `count` of them
        evenly spaced (default: the entry's `num_frames`).

        A directory that is missing or has no pictures comes back as its path, for the missing-media
        count to find. video: the file below `video_root` that upstream would take frames from.
        """
        frames = self.all_frames(directory, video)
        count = int(self.fields.get("num_frames", 8)) if count is None else count
        if count <= len(frames):
            frames = [frames[at] for at in np.linspace(0, len(frames) - 1, count, dtype=int)]
        return frames or str(directory)

    def all_frames(self, directory: Path, video: str | None = None) -> list[str]:
        """Every picture of a directory in natural order (frame_2 before frame_10)."""
        if directory not in self.frame_lists:
            found = directory.iterdir() if directory.is_dir() else ()
            names = [path.name for path in found if path.suffix.lower() in FRAME_SUFFIXES]
            self.frame_lists[directory] = [
                str(directory / name) for name in sorted(names, key=natural_key)
            ]
            if not names and video and self.fields.get("video_root"):
                self.videos[directory] = self.path("video_root") / video
        return self.frame_lists[directory]

    def relative(self, paths: Sequence[str] | str) -> list[str]:
        """Paths as they are below the base directory."""
        listed = [paths] if isinstance(paths, str) else paths
        base = str(self.basedir) + "/"
        return [path.removeprefix(base) for path in listed]

    def _data_path(self, part):
        path, written = self.path("data_path"), str(self.fields["data_path"])
        files = find_files(path, part, self.fields.get("dataset_split", "test"))
        if not files:
            what = f"no table {part!r} in data_path" if part else "no table at data_path"
            raise ValueError(f"{self.name}: {what} {path}")
        return Table(files, written)


def column(row: dict, name: str, where: str):
    """A required column; hyphen and underscore spellings are the same name."""
    for spelling in (name, name.replace("-", "_")):
        if spelling in row:
            return row[spelling]
    raise ValueError(f"{where}: no column {name!r}, the row has {', '.join(row) or 'none'}")


def texts(row: dict, name: str, where: str) -> list[str]:
    """A required column that is a list of strings, at least one."""
    values = column(row, name, where)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{where}: {name}: got {str(values)[:80]!r}, need a list of strings")
    if not values:
        raise ValueError(f"{where}: {name} is empty")
    return values


def join(instruction: str, text: str) -> str:
    """Instruction, one space, text; an empty text adds nothing."""
    return f"{instruction} {text}" if text else instruction
