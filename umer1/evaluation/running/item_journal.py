"""Finished items of a run whose result files are not written yet: what a killed run goes on from.

`directory` has a folder per side, with parts named `<rank>-<mode>-<number>.npz`: each process of a
run writes its own, all processes read them all. A part holds

    places   int64 [n]            which items of the side
    disc, gen float32 [n, D]      or [n, k, D] for k samples; those of its mode
    texts    uint8                JSON: what the model wrote, a row per item (mode gen or both)
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from umer1.parts import Parts, remove_strays, replacing, take_lock

KINDS = {"disc": ("disc",), "gen": ("gen",), "both": ("disc", "gen")}


class ItemJournal:
    """Args:
    rank: of this process. The first one holds a lock: nobody else writes here.
    """

    def __init__(self, directory: Path, rank: int = 0):
        self.directory, self.rank = directory, rank
        self._parts: dict[tuple[str, str], Parts] = {}
        self._seen: set[Path] = set()
        self._lock = None
        if rank == 0:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(
                directory, f"{directory.parent}: another process is writing there"
            )
            for folder in self._folders():
                remove_strays(folder)

    def fresh(self, key: str) -> Iterator[tuple[str, list[int]]]:
        """(mode, places) of a side's parts on disk that were not asked for before, by any process
        of any run."""
        for path in self._paths(key):
            if path not in self._seen:
                self._seen.add(path)
                with np.load(path, allow_pickle=False) as part:
                    yield path.name.split("-")[1], part["places"].tolist()

    def add(
        self, key: str, mode: str, place: int, vectors: dict[str, np.ndarray], text: dict | None
    ) -> None:
        """An item has finished; it is on disk within seconds, if other items come."""
        if (key, mode) not in self._parts:
            prefix = f"{self.rank}-{mode}-"
            self._parts[key, mode] = Parts(self.directory / key, ".npz", _write, prefix=prefix)
        self._parts[key, mode].add([(place, vectors, text)])
        for parts in self._parts.values():
            if parts.due:
                parts.commit()

    def commit(self) -> None:
        """Everything that was added is on disk when this returns."""
        for parts in self._parts.values():
            parts.commit()

    def read(
        self, key: str, modes: Sequence[str], rows: int
    ) -> tuple[dict[str, np.ndarray], list[dict] | None]:
        """(mode -> float32 [rows, D] or [rows, k, D], texts or None) of a side that is whole: what
        is on disk, and what this process has not written yet."""
        arrays: dict[str, np.ndarray] = {}
        texts: list[dict | None] = [None] * rows
        for part in self._all_parts(key):
            places = part["places"]
            for mode in set(modes) & set(part):
                if mode not in arrays:
                    arrays[mode] = np.full((rows, *part[mode].shape[1:]), np.nan, np.float32)
                arrays[mode][places] = part[mode]
            if "texts" in part and "gen" in modes:
                written = json.loads(part["texts"].tobytes())
                for place, text in zip(places, written, strict=True):
                    texts[place] = text
        ordered = {mode: arrays[mode] for mode in modes}
        return ordered, texts if "gen" in modes else None

    def drop(self, key: str) -> None:
        """The result files of the side are written."""
        self._parts = {names: parts for names, parts in self._parts.items() if names[0] != key}
        shutil.rmtree(self.directory / key, ignore_errors=True)

    def __enter__(self) -> "ItemJournal":
        return self

    def __exit__(self, *error) -> None:
        """Interrupted or failed: what has finished is kept. Finished: the directory goes, unless it
        has items of tasks that this run was not about."""
        try:
            self.commit()
            if self._lock is not None and not self._folders():
                shutil.rmtree(self.directory)
        finally:
            if self._lock is not None:
                self._lock.close()

    def _folders(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if path.is_dir()]

    def _all_parts(self, key: str) -> Iterator[dict[str, np.ndarray]]:
        for path in self._paths(key):
            with np.load(path, allow_pickle=False) as part:
                yield {name: part[name] for name in part.files}
        for (owner, _), parts in self._parts.items():
            if owner == key and parts.waiting:
                yield _columns(parts.waiting)

    def _paths(self, key: str) -> list[Path]:
        return sorted((self.directory / key).glob("[0-9]*.npz"))


def _write(path: Path, rows: list) -> None:
    with replacing(path) as file:
        np.savez(file, **_columns(rows))


def _columns(rows: list) -> dict[str, np.ndarray]:
    places, vectors, texts = zip(*rows, strict=True)
    arrays = {name: np.stack([each[name] for each in vectors]) for name in vectors[0]}
    if texts[0] is not None:
        content = json.dumps(texts, ensure_ascii=False).encode()
        arrays["texts"] = np.frombuffer(content, np.uint8)
    return {"places": np.array(places, np.int64), **arrays}
