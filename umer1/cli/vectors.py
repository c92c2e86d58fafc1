"""Embeddings as files: .npz (arrays, no pickles) and .jsonl."""

import json
import os
from pathlib import Path

TEXTS = ("reasoning", "summary", "finish", "tokens")


def check_output(path: Path) -> None:
    """Refuse an output name before any work is done for it."""
    if path.suffix not in (".npz", ".jsonl"):
        raise ValueError(f"--output {path}: need a name that ends in .npz or .jsonl")


def save(path: Path, ids: list[str], result, *, model: str, readout: str) -> None:
    """Write embeddings to `path`, by its ending, all of it or nothing."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}{path.suffix}")
    try:
        if path.suffix == ".npz":
            arrays = {"ids": np.array(ids), "model": np.array(model), "readout": np.array(readout)}
            arrays |= {name: vectors for name, vectors in _vectors(result).items()}
            arrays |= {
                name: np.array(getattr(result, name)) for name in TEXTS if getattr(result, name)
            }
            np.savez(temporary, **arrays)
        else:
            rows = to_rows(ids, result, vectors=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_rows(ids: list[str], result, *, vectors: bool) -> list[dict]:
    """One object per item: id, texts where the model wrote some, and the vectors on request."""
    rows = []
    for number, identity in enumerate(ids):
        row = {"id": identity}
        row |= {name: getattr(result, name)[number] for name in TEXTS if getattr(result, name)}
        if vectors:
            row |= {name: array[number].tolist() for name, array in _vectors(result).items()}
        rows.append(row)
    return rows


def _vectors(result):
    return {
        name: getattr(result, name) for name in ("disc", "gen") if getattr(result, name) is not None
    }
