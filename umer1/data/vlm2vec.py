"""VLM2Vec's training sets: a YAML file of entries, each a table of pairs without responses.

    store = open_vlm2vec("train_image.yaml", "data", {"TIGER-Lab/MMEB-train": "data/MMEB-train"})

    ImageNet_1K: {dataset_parser: mmeb, dataset_name: TIGER-Lab/MMEB-train, subset_name: ImageNet_1K,
                  dataset_split: original, image_dir: MMEB-train/image, num_sample_per_subset: 100000,
                  weight: 1}

Tables are read from local folders, laid out as the hub's repositories or as `datasets` saves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from umer1.data.index import FileIndex
from umer1.data.records import RecordError
from umer1.data.store import PairStore, Part
from umer1.data.tables import TableRows
from umer1.data.vlm2vec_rows import PARSERS, RowReader

FIELDS = {
    "dataset_parser", "dataset_name", "subset_name", "dataset_split", "dataset_path", "image_dir",
    "video_frame_basedir", "num_frames", "data_mode", "num_sample_per_subset", "weight",
    # told for people and logs; counts are those of the tables
    "num_rows", "global_dataset_name",
}  # fmt: skip
BENCHMARK_FIELDS = {"eval_type", "image_root", "video_root", "frame_root"}
DATA_MODES = ("caption_retrieval", "video_retrieval")
SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")


def is_vlm2vec(path: str | Path) -> bool:
    """Whether a file is such a YAML: entries with a `dataset_parser`, none with a field that only
    benchmarks have."""
    path = Path(path)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    values = content.values() if isinstance(content, dict) else []
    entries = [entry for entry in values if isinstance(entry, dict)]
    if any(not BENCHMARK_FIELDS.isdisjoint(entry) for entry in entries):
        return False
    return any("dataset_parser" in entry for entry in entries)


def open_vlm2vec(
    path: str | Path,
    root: str | Path,
    local_folders: Mapping[str, str] | None = None,
    *,
    human_turns: bool = False,
) -> PairStore:
    """All entries of a YAML file, in order; an entry's key is its source.

    Args:
        root: what relative paths in the file are below.
        local_folders: where the data sets with these hub names lie.
        human_turns: write texts as SFT's human turns, for training the discriminative embedding;
            else they are the bare texts that RL wants.

    Raises RecordError naming file, entry and field.
    """
    path = Path(path)
    parts = []
    for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        where = f"{path}: {name}"
        if not isinstance(fields, dict):
            raise RecordError(f"{where}: wants a mapping, got {fields!r}")
        reader = _reader(str(name), fields, Path(root).absolute(), human_turns, where)
        parts += _parts(reader, fields, Path(root).absolute(), local_folders or {}, where)
    return PairStore(parts)


def _reader(
    name: str, fields: dict[str, Any], root: Path, human_turns: bool, where: str
) -> RowReader:
    """The entry's parser and its settings, checked."""
    if unknown := sorted(set(fields) - FIELDS):
        raise RecordError(f"{where}: unknown field {unknown[0]!r}; known are {sorted(FIELDS)}")
    kind = fields.get("dataset_parser")
    if kind not in PARSERS:
        raise RecordError(
            f"{where}: dataset_parser: got {kind!r}, wants one of {', '.join(PARSERS)}"
        )
    for key in PARSERS[kind].folders:
        if not fields.get(key):
            raise RecordError(f"{where}: {kind} wants {key!r}")
    mode = fields.get("data_mode", DATA_MODES[0])
    if mode not in DATA_MODES:
        raise RecordError(f"{where}: data_mode: got {mode!r}, wants one of {DATA_MODES}")
    return RowReader(
        kind,
        name,
        images=str(root / fields.get("image_dir", "")),
        frames=str(root / fields.get("video_frame_basedir", "")),
        num_frames=_number(fields, "num_frames", int, where) or 8,
        mode=mode,
        human_turns=human_turns,
    )


def _parts(
    reader: RowReader, fields: dict[str, Any], root: Path, local: Mapping[str, str], where: str
) -> list[Part]:
    """One part per file, of which the first `num_sample_per_subset` rows count."""
    parser = PARSERS[reader.parser]
    limit = _number(fields, "num_sample_per_subset", int, where)
    weight = _number(fields, "weight", float, where)
    parts: list[Part] = []
    for file in _files(fields, root, local, where):
        json = file.suffix in (".json", ".jsonl")
        rows = FileIndex.open(file) if json else TableRows(file, parser.text, parser.pictures)
        count = len(rows) if limit is None else min(len(rows), limit - sum(map(len, parts)))
        chosen = None if count == len(rows) else np.arange(count)
        parts.append(
            Part(
                rows,
                reader,
                source=reader.source,
                chosen=chosen,
                weight=weight,
                has_responses=False,
                rows_name_sources=False,
            )
        )
    return parts


def _files(fields: dict, root: Path, local: Mapping[str, str], where: str) -> list[Path]:
    """The files of the entry's table: `dataset_path`, or those of its split in a folder."""
    if fields.get("dataset_path"):
        path = root / fields["dataset_path"]
        if not path.is_file():
            raise RecordError(f"{where}: dataset_path: no such file: {path}")
        return [path]
    name = fields.get("dataset_name")
    if not isinstance(name, str):
        raise RecordError(f"{where}: wants 'dataset_name' or 'dataset_path'")
    folder = root / local.get(name, name)
    if not folder.is_dir():
        raise RecordError(
            f"{where}: dataset_name {name!r}: no folder {folder}; nothing is downloaded: say where "
            f"it lies with local_folders: {{{name}: <folder>}}"
        )
    default = "original" if fields["dataset_parser"] == "mmeb" else "train"
    split, subset = fields.get("dataset_split", default), fields.get("subset_name")
    homes = [folder / subset, folder / "data" / subset] if subset else [folder, folder / "data"]
    for home in homes:
        for suffix in SUFFIXES:
            files = sorted(home.glob(f"*{suffix}")) if home.is_dir() else []
            files = [file for file in files if _of_split(file.stem, split)]
            files = files or sorted((home / split).glob(f"*{suffix}"))
            if files:
                return files
    looked = " and ".join(str(home) for home in homes)
    raise RecordError(
        f"{where}: no table of split {split!r} in {looked} (wants {split}-*.parquet, or .arrow, "
        ".jsonl, .json)"
    )


def _of_split(stem: str, split: str) -> bool:
    return stem == split or stem.startswith(f"{split}-") or f"-{split}-" in stem


def _number(fields: dict, key: str, kind: type, where: str):
    """A positive number, None where it is absent (or the text None, as in released files)."""
    value = fields.get(key)
    if value is None or value == "None":
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError):
        number = 0
    if isinstance(value, bool) or number <= 0:
        raise RecordError(f"{where}: {key}: wants a number above 0, got {value!r}")
    return number
