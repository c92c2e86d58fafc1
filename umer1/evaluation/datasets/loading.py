"""Benchmark YAML files (VLM2Vec's dialect) to tasks."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from umer1.evaluation import benchmark
from umer1.evaluation.datasets.config import PAGE_DATA, PROMPT_SETS, TaskConfig
from umer1.evaluation.datasets.hub import LocalTables
from umer1.evaluation.datasets.image import (
    load_image_classification,
    load_image_question,
    load_image_to_image,
    load_text_to_image,
)
from umer1.evaluation.datasets.moments import load_moment_retrieval, load_momentseeker
from umer1.evaluation.datasets.tasks import EvalTask
from umer1.evaluation.datasets.video_classification import load_ssv2, load_video_classification
from umer1.evaluation.datasets.video_qa import (
    load_activitynetqa,
    load_egoschema,
    load_mvbench,
    load_nextqa,
    load_videomme,
)
from umer1.evaluation.datasets.video_retrieval import (
    DIDEMO,
    MSRVTT,
    MSVD,
    VATEX,
    YOUCOOK2,
    caption_loader,
)
from umer1.evaluation.datasets.visdoc import load_vidore, load_visrag

PARSERS = {
    "image_cls": load_image_classification,
    "image_i2t": load_image_classification,
    "image_qa": load_image_question,
    "image_t2i": load_text_to_image,
    "image_i2i_vg": load_image_to_image,
    "ssv2": load_ssv2,
    "video_classification": load_video_classification,
    "msrvtt": caption_loader(MSRVTT),
    "msvd": caption_loader(MSVD),
    "didemo": caption_loader(DIDEMO),
    "vatex": caption_loader(VATEX),
    "youcook2": caption_loader(YOUCOOK2),
    "moment_retrieval": load_moment_retrieval,
    "momentseeker": load_momentseeker,
    "videomme": load_videomme,
    "egoschema": load_egoschema,
    "nextqa": load_nextqa,
    "mvbench": load_mvbench,
    "activitynetqa": load_activitynetqa,
    "vidore": load_vidore,
    "visrag": load_visrag,
}
MODALITY_FILES = ("image.yaml", "video.yaml", "visdoc.yaml")


def load_tasks(
    source: str | Path,
    *,
    data_basedir: str | Path | None = None,
    names: Iterable[str] | None = None,
    prompts: str = "ume-r1",
    hub_map: str | Path | None = None,
    page_data: str = "fixed",
) -> list[EvalTask]:
    """Load a benchmark.

    Kinds of tasks (one_look, multi_step) come from tasks.json beside the data or one directory up.

    Args:
        source: a YAML file; a directory that holds image.yaml, video.yaml, visdoc.yaml (directly or
            in eval/); or "mmeb-v2", "mmeb-v2:ume-r1", "mmeb-v2:qwen3-vl-embedding": the bundled
            entries of MMEB-V2 in the directory layout of VLM2Vec or of another project.
        data_basedir: what relative paths in the YAML are below; its own directory by default.
        names: only these tasks.
        prompts: "ume-r1", "vlm2vec" or "qwen3-vl-embedding", for loaders whose instructions the
            three set differently.
        hub_map: where tables are that the YAML names by hub repository: a directory that holds
            repositories, or a map file (see `hub_map.py`). Without one they are looked for below
            `data_basedir`. An entry of a map file goes before the YAML's `data_path`.
        page_data: "fixed", or "original" for ViDoSeek-page and MMLongBench-page as they were before
            November 2025.

    Raises:
        ValueError, TypeError: an unknown parser, a missing table, a malformed row. Media are not
            looked at here.
    """
    configs = open_entries(
        source,
        data_basedir=data_basedir,
        names=names,
        prompts=prompts,
        hub_map=hub_map,
        page_data=page_data,
    )
    return [load_task(config) for config in configs]


def open_entries(
    source: str | Path,
    *,
    data_basedir: str | Path | None = None,
    names: Iterable[str] | None = None,
    prompts: str = "ume-r1",
    hub_map: str | Path | None = None,
    page_data: str = "fixed",
) -> list[TaskConfig]:
    """The chosen entries of a benchmark, before any of their tables is opened; arguments as for
    `load_tasks`.
    """
    for option, value, known in (
        ("prompts", prompts, PROMPT_SETS),
        ("page_data", page_data, PAGE_DATA),
    ):
        if value not in known:
            raise ValueError(f"{option}: got {value!r}, need one of {', '.join(known)}")
    wanted = None if names is None else list(names)
    entries: dict[str, TaskConfig] = {}
    tables: dict[Path, LocalTables] = {}
    for where, basedir, content in _contents(source, data_basedir):
        if basedir not in tables:
            tables[basedir] = LocalTables.open(hub_map, basedir)
        for name, fields in content.items():
            if name in entries:
                raise ValueError(f"{where}: task {name} is listed twice")
            entries[name] = TaskConfig(name, fields, basedir, prompts, tables[basedir], page_data)
    if unknown := sorted(set(wanted or ()) - set(entries)):
        raise ValueError(f"no task named {', '.join(unknown)}; there are {', '.join(entries)}")
    return [entries[name] for name in entries if wanted is None or name in wanted]


def load_task(config: TaskConfig) -> EvalTask:
    """The task of one entry."""
    parser = config.fields.get("dataset_parser")
    if parser not in PARSERS:
        raise ValueError(
            f"{config.name}: unknown dataset_parser {parser!r}, known are {', '.join(PARSERS)}"
        )
    task = PARSERS[parser](config)
    task.kind = _kinds(config.basedir).get(config.name, {}).get("kind")
    task.revision = config.revision
    entry = benchmark.entries().get(config.name)
    if entry and entry.parser == parser:
        task.group, queries = entry.group, entry.queries
        if entry.later == len(task.queries):
            queries = entry.later
            task.notes.append(
                f"{queries} queries, as published since v2.0.1; v2.0.0 has {entry.queries}"
            )
        task.expected = (queries, entry.candidates)
    task.group = config.fields.get("group", task.group)
    return task


def yaml_files(source: Path) -> list[Path]:
    """The YAML files that `source` stands for."""
    if _bundled(source):
        raise ValueError(f"{source}: the bundled benchmark needs data_basedir, its directory")
    if source.is_file():
        return [source]
    for directory in (source, source / "eval"):
        found = [directory / name for name in MODALITY_FILES if (directory / name).is_file()]
        if found:
            return found
    raise ValueError(
        f"{source}: neither a YAML file nor a directory with {', '.join(MODALITY_FILES)}, nor "
        f"{benchmark.NAME}"
    )


def _contents(source, data_basedir) -> Iterator[tuple[str, Path, dict]]:
    """(name of the file, base directory, entries)."""
    if _bundled(source) and data_basedir:
        layout = str(source).partition(":")[2] or "vlm2vec"
        for file, content in benchmark.yaml_entries(layout).items():
            yield f"{source} {file}", _directory(data_basedir), content
        return
    for path in yaml_files(Path(source)):
        yield str(path), _directory(data_basedir) if data_basedir else path.parent, _read(path)


def _bundled(source):
    return str(source).partition(":")[0] == benchmark.NAME and not Path(source).exists()


def _directory(data_basedir):
    if not Path(data_basedir).is_dir():
        raise ValueError(f"data_basedir {data_basedir}: no such directory")
    return Path(data_basedir)


def _kinds(basedir):
    for path in (basedir / "tasks.json", basedir.parent / "tasks.json"):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}


def _read(path):
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from None
    if not isinstance(content, dict) or not all(
        isinstance(entry, dict) for entry in content.values()
    ):
        raise ValueError(f"{path}: need a mapping of task names to their fields")
    for name in content:
        # names become file names of the results
        if not isinstance(name, str) or "/" in name or name.startswith("."):
            raise ValueError(f"{path}: {name!r} cannot be a task name")
    return content
