"""Which files of a local data repository are one config and split.

A repository's own README (its `configs`) is asked first; then the usual layouts:
`data/test-*.parquet`, `<config>/test-*.parquet`, `<config>.jsonl`, a folder written by
`Dataset.save_to_disk`, and the cache of `datasets`.
"""

import re
from functools import lru_cache
from pathlib import Path

from umer1.evaluation.datasets.tables import SUFFIXES, natural_key

SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
# what `datasets` keeps beside its tables
NOT_TABLES = {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}


def find_files(place: Path, config: str | None, split: str) -> list[Path]:
    """Files of a table in their order; empty if there are none. A place that is a file is it."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        return []
    if files := _as_described(place, config, split):
        return files
    for home in _homes(place, config):
        if home.is_dir() and (files := _in_folder(home, split)):
            return files
    # <config>.jsonl beside its neighbours
    return _of_one_format(_named(place, config)) if config else []


def _homes(place, config):
    """Folders that may hold nothing but this config."""
    if config:
        yield from (place / config, place / "data" / config, place / config / "data")
        # the cache of `datasets`: <config>/<version>/<fingerprint>
        yield from sorted((place / config).glob("*/*"))
    else:
        yield from (place, place / "data", place / "default")
        yield from sorted((place / "default").glob("*/*"))


def _in_folder(home, split):
    # a DatasetDict has a folder per split
    if (home / split).is_dir() and (files := _of_one_format(_tables(home / split))):
        return files
    tables = _tables(home)
    if files := _of_one_format([path for path in tables if _is_of(path.stem, split)]):
        return files
    others = [path for path in tables if any(_is_of(path.stem, name) for name in SPLITS)]
    return [] if others else _of_one_format(tables)


def _tables(folder):
    return [
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.name not in NOT_TABLES and path.is_file()
    ]


def _named(place, config):
    folders = [folder for folder in (place, place / "data", place / "json") if folder.is_dir()]
    return [path for folder in folders for path in _tables(folder) if path.stem == config]


def _is_of(stem, split):
    """test, test-00000-of-00002, test.part1, name-test, name-test-00000-of-00002."""
    return re.search(rf"(^|[-_.]){re.escape(split)}([-_.]|$)", stem) is not None


def _of_one_format(files):
    """The same rows may be there in several formats, one of which is enough."""
    for suffix in SUFFIXES:
        if chosen := [path for path in files if path.suffix == suffix]:
            return sorted(chosen, key=lambda path: natural_key(path.name))
    return []


def _as_described(place, config, split):
    """Files by the `configs` in the head of the repository's README.md."""
    readme = place / "README.md"
    configs = _configs(readme, readme.stat().st_mtime_ns) if readme.is_file() else []
    names = [entry.get("config_name") for entry in configs]
    if config is None and "default" in names:
        config = "default"
    for entry in configs:
        if config not in (None, entry.get("config_name")) or (config is None and len(configs) > 1):
            continue
        for files in _data_files(entry.get("data_files")):
            if files.get("split") == split:
                return _matching(place, files.get("path"))
    return []


@lru_cache(maxsize=64)
def _configs(readme, _changed):
    """A data set of many configs is asked for once for each of them."""
    import yaml

    head = readme.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    try:
        content = yaml.safe_load(head.removeprefix("---"))
    except yaml.YAMLError:
        return []
    configs = content.get("configs") if isinstance(content, dict) else None
    return [entry for entry in configs or [] if isinstance(entry, dict)]


def _data_files(described):
    """`data_files` is a list of splits with their paths, or a path for the split "train"."""
    if isinstance(described, str):
        return [{"split": "train", "path": described}]
    return [entry for entry in described or [] if isinstance(entry, dict)]


def _matching(place, patterns):
    files = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
        # a README is someone else's text: it cannot point outside its folder
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            continue
        found = [path for path in place.glob(pattern) if path.suffix in SUFFIXES]
        files += sorted(found, key=lambda path: natural_key(path.name))
    return files
