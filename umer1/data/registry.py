"""Training sets by name, and by file.

    store = open_sft("train/sft.json", "train")
    store = open_datasets("mini,other%20", "registry.yaml")     # all of mini, 20 % of other
    store = open_rl("train/rl.yaml", "train")

A registry file maps names to places; relative paths start at the file's own directory:

    mini: {annotation_path: train/sft.json, data_path: train}
"""

import os
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from umer1.data.index import FileIndex
from umer1.data.records import Pair, RecordError, rl_files, rl_pair, sft_pair, take
from umer1.data.store import PairStore, Part


@dataclass(frozen=True, slots=True)
class Entry:
    annotation_path: Path
    data_path: Path


def open_sft(annotation_path: str | Path, data_path: str | Path) -> PairStore:
    """The pairs of an SFT JSON or JSONL file; media paths become absolute below `data_path`."""
    return PairStore([_sft_part(Path(annotation_path), data_path)])


def open_rl(path: str | Path, image_root: str | Path, seed: int = 0) -> PairStore:
    """The pairs of an RL JSON or JSONL file, or of a YAML file that lists some (`rl_files`)."""
    root, parts = os.path.abspath(image_root), []
    for file, strategy, where in rl_files(Path(path)):
        rows = FileIndex.open(file)
        chosen = None
        if strategy != "all":
            chosen = np.array(take(range(len(rows)), strategy, seed, where), np.int64)
        read = partial(rl_pair, root=root, default_name=file.stem)
        parts.append(Part(rows, read, source=file.stem, chosen=chosen, has_responses=False))
    return PairStore(parts)


def open_datasets(names: str, registry: str | Path, seed: int = 0) -> PairStore:
    """The named sets in the given order; `%N` keeps int(rows * N / 100) random rows."""
    entries, parts = load_registry(registry), []
    for name, share in parse_names(names):
        if name not in entries:
            raise RecordError(f"{registry}: unknown data set '{name}'; known are {sorted(entries)}")
        part = _sft_part(entries[name].annotation_path, entries[name].data_path)
        if share < 100:
            count = len(part.rows)
            chosen = random.Random(seed).sample(range(count), int(count * share / 100))
            part.chosen = np.array(chosen, np.int64)
        parts.append(part)
    return PairStore(parts)


def read_datasets(names: str, registry: str | Path, seed: int = 0) -> list[Pair]:
    """`open_datasets`, all read at once."""
    return list(open_datasets(names, registry, seed))


def load_registry(path: str | Path) -> dict[str, Entry]:
    """Names of a registry file with their absolute places. Raises RecordError on a bad file."""
    path = Path(path).absolute()
    if not path.is_file():
        raise RecordError(f"{path}: no such registry file")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise RecordError(f"{path}: wants a mapping of names to annotation_path and data_path")
    entries = {}
    for name, place in content.items():
        if not isinstance(place, dict) or set(place) != {"annotation_path", "data_path"}:
            raise RecordError(f"{path}: '{name}' wants exactly annotation_path and data_path")
        if "%" in str(name) or "," in str(name):
            raise RecordError(f"{path}: name '{name}' may contain neither '%' nor ','")
        annotations, media = (path.parent / place[key] for key in ("annotation_path", "data_path"))
        entries[str(name)] = Entry(annotations, media)
    return entries


def parse_names(names: str) -> list[tuple[str, float]]:
    """`"a,b%20"` -> `[("a", 100.0), ("b", 20.0)]`."""
    parsed = []
    for part in names.split(","):
        name, percent_sign, percent = part.strip().partition("%")
        try:
            share = float(percent) if percent_sign else 100.0
        except ValueError:
            share = -1.0
        if not name or not 0 < share <= 100:
            raise RecordError(
                f"data set names: got {part!r}, wants 'name' or 'name%N', 0 < N <= 100"
            )
        parsed.append((name, share))
    return parsed


def _sft_part(path: Path, data_path: str | Path) -> Part:
    read = partial(sft_pair, root=os.path.abspath(data_path), default_name=path.stem)
    return Part(FileIndex.open(path), read, source=path.stem)
