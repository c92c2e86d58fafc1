"""Result files of a directory, whoever wrote them: VLM2Vec's names, UME-R1's with modes, ours.

    for stored in find_stored("exps/visdoc"):
        print(stored.name, stored.column, stored.load_queries().shape)

Nothing in such a directory is trusted: pickles go through the restricted reader, arrays are loaded
without pickles and stay on disk, rows of JSON are checked.
N queries, C candidates, D dimension.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umer1.evaluation import files
from umer1.evaluation.datasets.tables import read_jsonl
from umer1.evaluation.modes import MODES, mode_name

INFO = "_info.jsonl"
FOLDERS = (".", "image", "video", "visdoc")


@dataclass(frozen=True, slots=True)
class Stored:
    """Vectors of a task under one pair of modes. modes: None where the names carry none."""

    directory: Path
    name: str
    modes: tuple[str, str] | None

    @property
    def column(self) -> str:
        """ "disc", "gen", a mix, or "disc" for names without modes: one plain embedding."""
        return mode_name(self.modes) if self.modes else "disc"

    @property
    def complete(self) -> bool:
        """Whether both sides' vectors are there."""
        return all(self._array(side) or self._pickle(side).is_file() for side in ("qry", "tgt"))

    def load_infos(self, eval_type: str) -> list[dict]:
        """Rows of `_info.jsonl` with what scoring needs: label_name, and cand_names where local."""
        path = self._scored(INFO)
        rows = read_jsonl(path)
        for number, row in enumerate(rows):
            if "label_name" not in row:
                raise ValueError(f"{path}: row {number} has no label_name")
            if eval_type == "local" and not isinstance(row.get("cand_names"), list):
                raise ValueError(f"{path}: row {number} has no list cand_names")
        return rows

    def load_queries(self) -> np.ndarray:
        """float32 [N, D]."""
        path = self._array("qry")
        return _open(path) if path else files.load_queries(self._pickle("qry"))

    def load_candidates(self) -> tuple[list, np.ndarray]:
        """Names, and float32 [C, D]; from an array with an index the vectors stay on disk."""
        path = self._array("tgt")
        if path is None:
            return files.load_candidates(self._pickle("tgt"))
        index, vectors = self._index("tgt"), _open(path)
        names = [row.get("name") for row in read_jsonl(index)]
        if len(names) != len(vectors) or None in names:
            raise ValueError(f"{index}: need a name for each of the {len(vectors)} rows of {path}")
        return names, vectors

    def load_scores(self) -> dict | None:
        """Content of the score file beside the vectors; None when there is none."""
        path = self._scored("_score.json")
        if not path.is_file():
            return None
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not isinstance(scores, dict):
            raise ValueError(f"{path}: need an object of scores")
        return scores

    def _array(self, side):
        """The .npy of a side, where it can be used: candidates need their names too."""
        path = self._pickle(side)
        path = path.with_name(path.name + ".npy")
        usable = path.is_file() and (side == "qry" or self._index(side).is_file())
        return path if usable else None

    def _index(self, side):
        return self.directory / f"{self.name}_{side}_index.jsonl"

    def _pickle(self, side):
        mode = "" if self.modes is None else f"_{self.modes[0 if side == 'qry' else 1]}"
        return self.directory / f"{self.name}{mode}_{side}"

    def _scored(self, ending):
        modes = "" if self.modes is None else "_" + "_".join(self.modes)
        return self.directory / f"{self.name}{modes}{ending}"


def find_stored(directory: str | Path) -> list[Stored]:
    """Everything in a directory, or in its image/, video/ and visdoc/, that can be scored.

    Raises ValueError when there is nothing.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"directory: {directory} is not one")
    found = []
    for folder in FOLDERS:
        for path in sorted((directory / folder).glob("*" + INFO)):
            if path.name.startswith("."):
                continue
            stored = _of(path)
            if stored.complete:
                found.append(stored)
    if not found:
        raise ValueError(
            f"directory: {directory} has no task with vectors of both sides and {INFO}; need files "
            "like NAME_qry, NAME_tgt, NAME_info.jsonl, with or without modes in their names"
        )
    return found


def _of(path):
    stem = path.name.removesuffix(INFO)
    plain = Stored(path.parent, stem, None)
    parts = stem.rsplit("_", 2)
    if not plain.complete and len(parts) == 3 and set(parts[1:]) <= set(MODES):
        return Stored(path.parent, parts[0], (parts[1], parts[2]))
    return plain


def _open(path):
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise ValueError(f"{path}: not an array ({error})") from None
    if array.ndim != 2 or array.dtype != np.float32:
        raise ValueError(f"{path}: got {array.dtype} {list(array.shape)}, need float32 [rows, D]")
    return array
