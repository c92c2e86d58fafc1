"""Result files under upstream's names, so that scores and vectors can be exchanged with VLM2Vec and
UME-R1.

    {name}_{mode}_qry              pickle of float32 [N, D]
    {name}_{mode}_tgt              pickle of dict candidate name -> float32 [D], in candidate order
    {name}_{qry}_{tgt}_info.jsonl  one row per query: cand_names, label_name, rel_scores
    {name}_{qry}_{tgt}_score.json  means of all metrics
    {name}_{qry}_{tgt}_pred.jsonl  per query: ranked names, label, rel_scores

and beside them, for programs that read no pickles:

    {name}_{mode}_{qry|tgt}.npy       float32 [N, D]
    {name}_{qry|tgt}_index.jsonl      one row per vector: row, name, text, image, video
    {name}_{mode}_{qry|tgt}_text.jsonl  what the model wrote: finish, reasoning, summary, tokens
    {name}_gen_qry_samples.npy        float32 [N, k, D], and its _text.jsonl with lists of k

Pickles are read by an unpickler that can build numpy arrays, dicts and strings and nothing else.
Every file is written beside its place and renamed, so a killed run leaves no half file to resume
from.
"""

import io
import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from umer1.parts import replacing

# the same bytes from every Python; upstream's default
PICKLE_PROTOCOL = 4


class ResultFiles:
    """The files of one task in one directory."""

    def __init__(self, directory: str | Path, name: str):
        self.directory, self.name = Path(directory), name

    def vectors(self, side: str, mode: str) -> Path:
        """side: "qry" or "tgt"; mode: "disc" or "gen"."""
        return self.directory / f"{self.name}_{mode}_{side}"

    def array(self, side: str, mode: str) -> Path:
        return self.directory / f"{self.name}_{mode}_{side}.npy"

    def index(self, side: str) -> Path:
        return self.directory / f"{self.name}_{side}_index.jsonl"

    def texts(self, side: str, mode: str) -> Path:
        return self.directory / f"{self.name}_{mode}_{side}_text.jsonl"

    def samples(self) -> Path:
        return self.directory / f"{self.name}_gen_qry_samples.npy"

    def sample_texts(self) -> Path:
        return self.directory / f"{self.name}_gen_qry_samples_text.jsonl"

    def scored(self, query_mode: str, target_mode: str, what: str) -> Path:
        """what: "info.jsonl", "score.json" or "pred.jsonl"."""
        return self.directory / f"{self.name}_{query_mode}_{target_mode}_{what}"


def save_queries(path: Path, vectors: np.ndarray) -> None:
    """float32 [N, D] as upstream pickles it."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    _write(path, lambda file: pickle.dump(array, file, protocol=PICKLE_PROTOCOL))


def save_candidates(path: Path, names: Iterable[str], vectors: np.ndarray) -> None:
    """Candidate names and their rows of float32 [C, D], as the dict upstream pickles."""
    rows = {name: np.array(row, dtype=np.float32) for name, row in zip(names, vectors, strict=True)}
    _write(path, lambda file: pickle.dump(rows, file, protocol=PICKLE_PROTOCOL))


def load_queries(path: Path) -> np.ndarray:
    """float32 [N, D] of a `_qry` file."""
    array = load_restricted(path)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: need one array [queries, dimension], got {_describe(array)}")
    return array.astype(np.float32, copy=False)


def load_candidates(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and float32 [C, D] of a `_tgt` file, in its order."""
    rows = load_restricted(path)
    lengths = {_length(row) for row in rows.values()} if isinstance(rows, dict) else set()
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"{path}: need a dict of equally long vectors, got {_describe(rows)}")
    return list(rows), np.stack(list(rows.values())).astype(np.float32, copy=False)


def _length(row):
    """The length of a vector of numbers, None of anything else."""
    numbers = isinstance(row, np.ndarray) and row.dtype.kind == "f" and row.ndim == 1
    return len(row) if numbers else None


def save_array(path: Path, array: np.ndarray) -> None:
    _write(path, lambda file: np.save(file, array, allow_pickle=False))


def load_array(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def save_json(path: Path, content, *, sync: bool = True) -> None:
    """sync: see `replacing`; scores can be made again from vectors."""
    text = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
    _write(path, lambda file: file.write(text.encode()), sync)


def save_jsonl(path: Path, rows: Iterable[dict], *, sync: bool = True) -> None:
    """sync: as in save_json."""
    lines = ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)
    _write(path, lambda file: file.writelines(lines), sync)


def load_jsonl(path: Path) -> list[dict]:
    # not splitlines: a line separator of Unicode inside a text ends no row
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def load_restricted(path: Path):
    """Unpickle a file that may hold numpy arrays, dicts, lists, strings and numbers; anything else
    is refused.
    """
    try:
        return _Restricted(io.BytesIO(path.read_bytes())).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path}: not a file of embeddings ({error})") from None


ALLOWED = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)


class _Restricted(pickle.Unpickler):
    def find_class(self, module, name):
        # numpy 2.0 renamed numpy.core; files written on either side of it load
        module = module.replace("numpy.core.", "numpy._core.", 1)
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(
                f"it wants {module}.{name}, only numpy arrays are accepted"
            )
        return super().find_class(module, name)


def _describe(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return (
        f"{type(value).__name__} of {len(value)}"
        if hasattr(value, "__len__")
        else type(value).__name__
    )


def _write(path: Path, write: Callable, sync: bool = True) -> None:
    with replacing(path, sync=sync) as file:
        write(file)
