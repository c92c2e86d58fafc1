"""A small exact index: vectors of one collection in one or both modes, on disk as arrays and JSON.

    index = Index.build(ids, {"gen": out.gen, "disc": out.disc}, model="tiny")
    index.save("photos.index")
    ids, scores = Index.load("photos.index").search(query_vectors, k=5, mode="gen")

Search is one matrix product and an exact top k. Files are vectors.npz and index.json; nothing in
them can run.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from umer1.retrieval.top_k import top_k

VERSION = 1
MODES = ("disc", "gen")


@dataclass(slots=True)
class Index:
    """ids [n], vectors: mode -> float32 [n, d], L2-normalised rows (the score is a dot product).

    model: what made the vectors; a query must come from the same. readout: where disc vectors were
    read.
    entries: per id, anything JSON can hold that a result should show (text, summary); empty
    without.
    """

    ids: list[str]
    vectors: dict[str, np.ndarray]
    model: str | None = None
    readout: str = "at"
    entries: list[dict] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        vectors: Mapping[str, np.ndarray],
        *,
        model: str | None = None,
        readout: str = "at",
        entries: Sequence[dict] = (),
    ) -> "Index":
        """Check and take copies. ids must be distinct; vectors [n, d] per mode, finite, one d for
        all.
        """
        arrays = {mode: np.array(array, dtype=np.float32) for mode, array in vectors.items()}
        index = cls(list(map(str, ids)), arrays, model, readout, list(entries))
        index._check("index")
        return index

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        return next(iter(self.vectors.values())).shape[1]

    def search(
        self, queries: np.ndarray, k: int = 10, *, mode: str | None = None
    ) -> tuple[list[list[str]], np.ndarray]:
        """The k best ids per query, best first, and their scores float32 [m, k]; equal scores in
        index order.

        queries: float32 [m, d]. mode: which vectors of the index; may be left out where it holds
        one mode only. k above the number of vectors gives all of them.
        """
        rows, scores = top_k(self._queries(queries), self.vectors[self._mode(mode)], k)
        return [[self.ids[row] for row in found] for found in rows], scores

    def entry(self, identity: str) -> dict:
        """What was stored with an id."""
        return self.entries[self.ids.index(identity)] if self.entries else {}

    def save(self, directory: str | Path) -> None:
        """Write `directory` (replacing an index that is there), all of it or nothing."""
        directory = Path(directory)
        if directory.exists() and not (directory / "index.json").is_file():
            raise ValueError(f"{directory} exists and is no index, it is left alone")
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        np.savez(temporary / "vectors.npz", **self.vectors)
        content = {
            "version": VERSION,
            "model": self.model,
            "readout": self.readout,
            "modes": list(self.vectors),
            "dimension": self.dimension,
            "ids": self.ids,
            "entries": self.entries,
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (temporary / "index.json").write_text(text, encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(temporary, directory)

    @classmethod
    def load(cls, directory: str | Path) -> "Index":
        """Read an index written by `save`; ValueError says what is wrong with the files."""
        directory = Path(directory)
        content = _read_json(directory / "index.json")
        try:
            ids, modes = content["ids"], content["modes"]
            model, readout, entries = content["model"], content["readout"], content["entries"]
        except KeyError as error:
            raise ValueError(f"{directory}: index.json has no {error}") from None
        index = cls(ids, _read_arrays(directory / "vectors.npz", modes), model, readout, entries)
        index._check(str(directory))
        return index

    def _check(self, where):
        unknown = sorted(set(self.vectors) - set(MODES))
        if unknown or not self.vectors:
            raise ValueError(
                f"{where}: vectors need one or both of disc, gen, got {unknown or 'none'}"
            )
        if not self.ids or len(set(self.ids)) != len(self.ids):
            raise ValueError(
                f"{where}: got {len(self.ids)} ids, {len(set(self.ids))} distinct; "
                "need distinct ones"
            )
        if self.entries and len(self.entries) != len(self.ids):
            raise ValueError(f"{where}: got {len(self.entries)} entries for {len(self.ids)} ids")
        for mode, array in self.vectors.items():
            if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(self.ids):
                shape = f"{array.dtype} {list(array.shape)}"
                raise ValueError(f"{where}: {mode} is {shape}, need float32 [{len(self.ids)}, d]")
            if not np.isfinite(array).all():
                raise ValueError(f"{where}: {mode} holds values that are not finite")
        if len({array.shape[1] for array in self.vectors.values()}) > 1:
            raise ValueError(f"{where}: disc and gen vectors differ in dimension")

    def _mode(self, mode):
        if mode is None and len(self.vectors) == 1:
            return next(iter(self.vectors))
        if mode not in self.vectors:
            raise ValueError(f"mode: got {mode!r}, the index holds {' and '.join(self.vectors)}")
        return mode

    def _queries(self, queries):
        queries = np.asarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ValueError(f"queries: got {list(queries.shape)}, need [m, {self.dimension}]")
        if not np.isfinite(queries).all():
            raise ValueError("queries: some values are not finite")
        return queries


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: no index here (index.json is missing)") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        found = content.get("version") if isinstance(content, dict) else None
        raise ValueError(f"{path}: index version {found!r}, this program reads {VERSION}")
    return content


def _read_arrays(path, modes):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {mode: file[mode] for mode in modes}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: cannot read the vectors {', '.join(modes)} ({error})") from None
