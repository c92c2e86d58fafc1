"""A side of a task: what is embedded, in which modes, and where its results go.

N items of the side, D dimension, k samples.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask
from umer1.evaluation.files import ResultFiles

QUERIES, CANDIDATES, SAMPLES = "qry", "tgt", "samples"


@dataclass
class Side:
    """name: "qry", "tgt", or "samples": the queries again, `count` sampled generations of each.

    basedir: what paths in the index are relative to.
    """

    task: EvalTask
    name: str
    modes: tuple[str, ...]
    result: ResultFiles
    basedir: Path | None = None
    count: int = 1

    @property
    def key(self) -> str:
        """Names the side among all of a run."""
        return f"{self.task.name}_{self.name}"

    @cached_property
    def items(self) -> list[dict]:
        """What the embedder is given."""
        if self.name == CANDIDATES:
            return list(self.task.candidates.values())
        return [query.item for query in self.task.queries]

    def written(self, mode: str) -> bool:
        """Whether the vectors are in their file: the last one of a side to be written."""
        if self.name == SAMPLES:
            return self.result.samples().is_file()
        return self.result.vectors(self.name, mode).is_file()

    def load(self, mode: str) -> np.ndarray:
        """float32 [N, D] ([N, k, D] for samples), in the order of `items`.

        Raises ValueError if the file is of another task.
        """
        if self.name == SAMPLES:
            return self._load_samples()
        path = self.result.vectors(self.name, mode)
        if self.name == CANDIDATES:
            return self._load_candidates(path)
        vectors = files.load_queries(path)
        if len(vectors) != len(self.items):
            raise ValueError(
                f"{path}: holds {len(vectors)} queries, the task has {len(self.items)}"
            )
        return vectors

    def write(self, vectors: dict[str, np.ndarray], texts: list[dict] | None) -> None:
        """Write what has been computed; `texts`: what the model wrote, a row per item."""
        if self.name == SAMPLES:
            files.save_jsonl(self.result.sample_texts(), texts)
            files.save_array(self.result.samples(), vectors["gen"])
            return
        if texts is not None:
            files.save_jsonl(self.result.texts(self.name, "gen"), texts)
        for mode, rows in vectors.items():
            self.complete(mode, rows)
            path = self.result.vectors(self.name, mode)
            if self.name == QUERIES:
                files.save_queries(path, rows)
            else:
                files.save_candidates(path, self.task.candidates, rows)

    def complete(self, mode: str, vectors: np.ndarray) -> None:
        """The array and the index beside a pickle, where they are not there yet."""
        index = self.result.index(self.name)
        if not index.is_file():
            files.save_jsonl(index, self._index())
        array = self.result.array(self.name, mode)
        if not array.is_file() or not self.written(mode):
            files.save_array(array, vectors)

    def _load_samples(self):
        path, shape = self.result.samples(), (len(self.items), self.count)
        sampled = files.load_array(path)
        if sampled.shape[:2] != shape:
            raise ValueError(
                f"{path}: holds {list(sampled.shape[:2])} samples, the task needs {list(shape)}"
            )
        return sampled

    def _load_candidates(self, path):
        names, vectors = files.load_candidates(path)
        wanted = list(self.task.candidates)
        if names == wanted:
            return vectors
        # another machine's file names candidates by absolute paths: compare the last two components
        row_of = {_short(name): row for row, name in enumerate(names)}
        rows = [row_of.get(_short(name)) for name in wanted]
        if None in rows or len(row_of) != len(names):
            raise ValueError(
                f"{path}: its {len(names)} candidates are not the task's {len(wanted)}"
            )
        return vectors[rows]

    def _index(self):
        names = self.task.candidates if self.name == CANDIDATES else [None] * len(self.items)
        for row, (name, item) in enumerate(zip(names, self.items, strict=True)):
            yield {
                "row": row,
                "name": str(row) if name is None else name,
                "text": _text(item),
                "image": self._paths(item, "image"),
                "video": self._paths(item, "video"),
            }

    def _paths(self, item, kind):
        given = [*_listed(item.get(kind)), *_listed(item.get(f"{kind}s"))]
        return [relative(str(path), self.basedir) for path in given]


def relative(path: str, basedir: Path | None) -> str:
    """`path` below `basedir`, as it is if it is not below it."""
    if basedir is None:
        return path
    short = os.path.relpath(os.path.abspath(path), os.path.abspath(basedir))
    return path if short.startswith("..") else short


def medium(item: dict) -> str:
    """What is dearest about an item: "video", "image" or "text"."""
    for kind in ("video", "image"):
        if item.get(kind) or item.get(f"{kind}s"):
            return kind
    return "text"


def _text(item: dict) -> str:
    return " ".join(part for part in (item.get("instruction"), item.get("text")) if part)


def _listed(value) -> Iterable:
    if value is None or value == "":
        return []
    return value if isinstance(value, list | tuple) else [value]


def _short(name):
    return "/".join(str(name).split("/")[-2:])
