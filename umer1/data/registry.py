"""Training sets by name: a YAML registry and the `name%N` notation.

A registry file maps names to places; relative paths start at the file's own directory:

    mini: {annotation_path: train/sft.json, data_path: train}

`read_datasets("mini,other%20", "registry.yaml")` reads all of `mini` and a random 20 % of `other`.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import yaml

from umer1.data.records import Pair, RecordError, read_sft


@dataclass(frozen=True, slots=True)
class Entry:
    annotation_path: Path
    data_path: Path


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


def read_datasets(names: str, registry: str | Path, seed: int = 0) -> list[Pair]:
    """Read the named sets in the given order; `%N` keeps int(rows * N / 100) random rows."""
    entries = load_registry(registry)
    pairs = []
    for name, share in parse_names(names):
        if name not in entries:
            raise RecordError(f"{registry}: unknown data set '{name}'; known are {sorted(entries)}")
        rows = read_sft(entries[name].annotation_path, entries[name].data_path)
        if share < 100:
            rows = random.Random(seed).sample(rows, int(len(rows) * share / 100))
        pairs += rows
    return pairs
