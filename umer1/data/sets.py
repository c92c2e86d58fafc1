"""One way in for every kind of training set.

    store = open_set("MMEB-train/v2/UME-R1-SFT.json", "sft", root="MMEB-train")
    store = open_set("mine,other%20", "sft", registry="registry.yaml")

Kinds: "sft" (JSON or JSONL, registry names), "rl" (JSON, JSONL or YAML), "vlm2vec" (YAML).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from umer1.data.records import RecordError
from umer1.data.registry import open_datasets, open_rl, open_sft
from umer1.data.scan import scan
from umer1.data.store import PairStore
from umer1.data.vlm2vec import is_vlm2vec, open_vlm2vec

YAML = (".yaml", ".yml")


def open_set(
    data: str | Path,
    kind: str,
    *,
    root: str | Path | None = None,
    registry: str | Path | None = None,
    local_folders: Mapping[str, str] | None = None,
    human_turns: bool = False,
    seed: int = 0,
) -> PairStore:
    """The pairs of a training set; `seed` drives its random sampling.

    Args:
        root: what media paths are below; the folder of `data` by default. Not for registry names.
        human_turns: see `open_vlm2vec`.
    """
    if registry:
        if kind != "sft":
            raise ValueError(f"registry: names SFT sets, got data for {kind}")
        return open_datasets(str(data), registry, seed)
    path = Path(data)
    if not path.exists():
        raise ValueError(f"data: no such file: {path} (for registry names, set `registry`)")
    root = root or path.parent
    if kind == "vlm2vec" or is_vlm2vec(path):
        return open_vlm2vec(path, root, local_folders, human_turns=human_turns)
    if kind == "rl":
        return open_rl(path, root, seed)
    if path.suffix in YAML:
        raise ValueError(
            f"data: {path}: as YAML, SFT reads VLM2Vec's train files (entries with a "
            "dataset_parser); its own records are JSON or JSONL"
        )
    return open_sft(path, root)


def kind_of(data: str | Path, registry: str | Path | None = None) -> str:
    """ "sft", "rl", "vlm2vec", or "benchmark" for a directory and any other YAML file.

    Raises ValueError for what is none of them.
    """
    path = Path(data)
    if registry:
        return "sft"
    if path.is_dir():
        return "benchmark"
    if not path.exists():
        raise ValueError(f"{path}: no such file or directory (for registry names, give --registry)")
    if path.suffix in YAML:
        return _yaml_kind(path)
    row = next(scan(path), (0, 0, {}))[2]
    for key, kind in (("qry", "sft"), ("qry_text", "rl")):
        if key in row:
            return kind
    raise RecordError(
        f"{path}: record 0 is neither an SFT record (qry, pos) nor an RL row (qry_text, pos_text); "
        f"it has {sorted(row)}"
    )


def _yaml_kind(path: Path) -> str:
    if is_vlm2vec(path):
        return "vlm2vec"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from None
    listed = isinstance(content, dict) and isinstance(content.get("datasets"), list)
    return "rl" if listed else "benchmark"
