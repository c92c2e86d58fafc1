"""`VectorIndex`: vectors of a collection in one or both modes, on disk, searched with FAISS.

    index = VectorIndex.create("photos.index", model="tiny@…", dimension=128)
    index.add(["a.jpg"], {"disc": disc, "gen": gen}, entries=[{"image": "/photos/a.jpg"}])
    for hit in index.search({"gen": queries}, k=5)[0]: print(hit.score, hit.id, hit.entry)

What `add` and `delete` were asked for is on the disk when they return; a process killed at any
moment leaves an index that opens and holds exactly that. Nothing in the files can run.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from umer1.retrieval.changes import check_same, while_it_changes
from umer1.retrieval.checks import checked_ids, checked_vectors, entries_or_empty
from umer1.retrieval.files import Stored, append
from umer1.retrieval.manifest import NAME, Manifest
from umer1.retrieval.search import SEARCH_MODES, best_rows, compared
from umer1.retrieval.structures import load
from umer1.retrieval.upkeep import clear, optimized

log = logging.getLogger("umer1")


@dataclass(frozen=True, slots=True)
class Hit:
    """One result: the item's id, its score, what was stored with it, and its row number, which
    stays the same as long as the index is not compacted."""

    id: str
    score: float
    entry: dict
    number: int


class VectorIndex:
    """An opened index. Safe to search from several threads while one of them, or another process,
    writes; `refresh` shows what another process wrote."""

    def __init__(self, directory: Path, manifest: Manifest):
        self.directory = directory
        self._stored = Stored(directory, manifest)
        # space -> what the manifest said, and the structure
        self._loaded: dict[str, tuple] = {}
        self._loading, self._writing = threading.Lock(), threading.Lock()

    @classmethod
    def create(
        cls,
        directory: str | Path,
        *,
        model: str,
        dimension: int,
        modes: Sequence[str] = ("disc", "gen"),
        readout: str = "at",
        aligned: bool = False,
        kind: str = "auto",
        dtype: str = "float32",
        instruction: str | None = None,
        cut_from: int | None = None,
    ) -> VectorIndex:
        """An empty index in `directory`, which must not hold anything else.

        Args:
            model: identity of what makes the vectors; queries have to come from the same.
            dimension: of the stored vectors. cut_from: the model's own dimension if vectors are to
                be cut short (and made unit length again).
            readout: where disc vectors are read, "at" their token or "after" it.
            aligned: the model was trained so that disc queries may search gen items.
            kind: "flat" (exact), "hnsw", "ivfpq", or "auto": by size, when `optimize` is called.
            dtype: how vectors are stored: float32, float16, or int8 with a scale per row.
            instruction: what stands before the text of every item.
        """
        directory = Path(directory)
        manifest = Manifest(
            model, dimension, tuple(modes), readout, aligned, kind, dtype, instruction, cut_from
        )
        if (directory / NAME).exists():
            raise ValueError(f"{directory}: there is an index already")
        # a process that was killed in this place may have left the lock and a temporary manifest
        others = [path.name for path in directory.glob("*") if path.name not in ("lock", NAME)]
        if others := [name for name in others if not name.startswith(f".{NAME}.")]:
            raise ValueError(
                f"{directory}: holds {others[0]}, an index wants a directory of its own"
            )
        directory.mkdir(parents=True, exist_ok=True)
        manifest.write(directory)
        return cls(directory, manifest)

    @classmethod
    def open(cls, directory: str | Path) -> VectorIndex:
        """An index that is there; ValueError says what is wrong with its files."""
        directory = Path(directory)
        return while_it_changes(directory, lambda manifest: cls(directory, manifest))

    @staticmethod
    def exists(directory: str | Path) -> bool:
        return (Path(directory) / NAME).is_file()

    def __len__(self) -> int:
        return int(self._stored.alive.sum())

    def __contains__(self, identity: str) -> bool:
        return self._stored.find(identity) is not None

    @property
    def manifest(self) -> Manifest:
        return self._stored.manifest

    @property
    def modes(self) -> tuple[str, ...]:
        return self.manifest.modes

    @property
    def model(self) -> str:
        return self.manifest.model

    @property
    def dimension(self) -> int:
        return self.manifest.dimension

    def check_model(self, model: str, readout: str | None = None) -> None:
        """ValueError if vectors of `model`, read out like this, do not belong into this index."""
        if model != self.model:
            raise ValueError(
                f"{self.directory} was made with {self.model}, the model here is {model}: build it "
                "again"
            )
        if readout not in (None, self.manifest.readout) and "disc" in self.modes:
            raise ValueError(
                f"{self.directory} holds disc vectors read {self.manifest.readout!r} their token, "
                f"not {readout!r} it"
            )

    def describe(self) -> dict:
        """What `umer1 index info` shows."""
        stored, manifest = self._stored, asdict(self.manifest)
        for name in ("folder", "item_bytes", "rows", "deleted"):
            del manifest[name]
        structures = manifest.pop("structures")
        return {
            "items": len(self),
            "deleted_rows": len(stored.alive) - len(self),
            **manifest,
            "structures": {
                mode: {"kind": own["kind"], "rows": own["rows"]} for mode, own in structures.items()
            },
            "bytes": sum(path.stat().st_size for path in stored.folder.glob("*")),
        }

    def entry(self, identity: str) -> dict:
        """What was stored with an id; KeyError without."""
        while True:
            stored = self._stored
            row = stored.find(identity)
            if row is not None:
                return stored.item(row)[1]
            # another thread may have written meanwhile
            if stored is self._stored:
                raise KeyError(identity)

    def item(self, number: int) -> tuple[str, dict]:
        """Id and entry of a row number (`Hit.number`); KeyError if there is none."""
        if not 0 <= number < len(self._stored.alive) or not self._stored.alive[number]:
            raise KeyError(number)
        return self._stored.item(number)

    def items(self) -> Iterator[tuple[int, str, dict]]:
        """(row number, id, entry) of all items."""
        stored = self._stored
        for row in np.flatnonzero(stored.alive).tolist():
            yield row, *stored.item(row)

    def vectors(self, mode: str, numbers: Sequence[int]) -> np.ndarray:
        """float32 [n, d] as stored, of row numbers."""
        return self._stored.vectors(mode, np.asarray(numbers, dtype=np.int64))

    def search(
        self, queries: Mapping[str, np.ndarray], k: int = 10, mode: str = "gen"
    ) -> list[list[Hit]]:
        """The k best items per query, best first; all of them where k is larger.

        Args:
            queries: float32 [m, d] by mode, unit rows, of the model's dimension or the index's.
            mode: "disc", "gen", or "fused": the mean of both cosines. If queries lack the mode, those
                of the other one search its items, with a warning unless the index is aligned.
        """
        if mode not in SEARCH_MODES:
            raise ValueError(f"mode: got {mode!r}, wants one of {', '.join(SEARCH_MODES)}")
        needed = ("disc", "gen") if mode == "fused" else (mode,)
        if missing := [name for name in needed if name not in self.modes]:
            raise ValueError(
                f"mode: got {mode!r}, the index holds {' and '.join(self.modes)}, not {missing[0]}"
            )
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: got {k!r}, wants at least 1")
        checked = checked_vectors(queries, self.manifest, "queries")
        compared_queries, crossed = compared(checked, mode)
        if crossed and not self.manifest.aligned:
            log.warning(
                "%s: queries of the other mode search %s items, but %s was not trained with both "
                "modes aligned: expect poor results",
                self.directory, mode, self.model,
            )  # fmt: skip
        stored, structure = self._searchable(mode)
        found = best_rows(stored, structure, mode, compared_queries, k)
        return [
            [
                Hit(identity, float(score), entry, row)
                for row, score in zip(rows.tolist(), scores, strict=True)
                for identity, entry in [stored.item(row)]
            ]
            for rows, scores in found
        ]

    def add(
        self,
        ids: Sequence[str],
        vectors: Mapping[str, np.ndarray],
        entries: Sequence[dict] | None = None,
        *,
        replacing: bool = False,
    ) -> None:
        """Append items; they are on the disk when this returns, all of them or none.

        Args:
            ids: distinct texts. One that is there is an error, or with `replacing` takes the place
                of the item there.
            vectors: float32 [n, d] for every mode of the index: unit rows, of the index's dimension
                or the model's.
            entries: what a result shows, as JSON can hold it.
        """
        ids = checked_ids(ids)
        checked = checked_vectors(vectors, self.manifest, "vectors", rows=len(ids), every_mode=True)
        entries = entries_or_empty(entries, len(ids))
        with self._change():
            known = self._stored.row_of
            there = [identity for identity in ids if identity in known]
            if there and not replacing:
                raise ValueError(f"ids: {there[0]!r} is in the index already")
            self._commit(ids, checked, entries, [known[identity] for identity in there])

    def delete(self, ids: Sequence[str]) -> int:
        """Forget items, on the disk when this returns; how many were there."""
        ids = checked_ids(ids)
        with self._change():
            known = self._stored.row_of
            gone = [known[identity] for identity in ids if identity in known]
            if gone:
                self._commit([], {}, [], gone)
            return len(gone)

    def optimize(self) -> None:
        """Make what lets a large index be searched fast, and drop rows that were deleted if they are
        many. Row numbers may change. Minutes for a million rows; a killed run changes nothing."""
        with self._change():
            manifest = optimized(self.directory, self._stored)
            if manifest != self.manifest:
                manifest.write(self.directory)
                self._stored = Stored(self.directory, manifest)
            clear(self.directory, manifest)

    def refresh(self) -> bool:
        """Show what other processes have written since; whether there was anything. ValueError if
        another index stands here now."""
        now = Manifest.read(self.directory)
        if now == self.manifest:
            return False
        check_same(self.directory, self.manifest, now)
        self._stored = while_it_changes(
            self.directory, lambda manifest: Stored(self.directory, manifest)
        )
        return True

    def _commit(self, ids, vectors, entries, gone):
        before = self._stored
        records = {mode: before.format.encode(array) for mode, array in vectors.items()}
        counts = append(
            self.directory, before.manifest, list(zip(ids, entries, strict=True)), records, gone
        )
        manifest = replace(before.manifest, **counts, commit=before.manifest.commit + 1)
        manifest.write(self.directory)
        after = Stored(self.directory, manifest)
        # shared: reading all items again for every batch would make building quadratic
        after.row_of = known = before.row_of
        self._stored = after
        for row in gone:
            known.pop(before.item(row)[0], None)
        known.update(zip(ids, range(before.manifest.rows, manifest.rows), strict=True))

    def _searchable(self, space):
        """What is stored, and its structure, read when it is first needed."""
        with self._loading:
            while True:
                stored = self._stored
                described = stored.manifest.structures.get(space)
                try:
                    if self._loaded.get(space, (None, None))[0] != described:
                        self._loaded[space] = described, load(stored, space)
                    return stored, self._loaded.get(space, (None, None))[1]
                except ValueError:
                    # another process may have put others in their place
                    if not self.refresh():
                        raise

    @contextmanager
    def _change(self):
        """One writer at a time, and it starts from what is on the disk."""
        with self._writing, open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield
