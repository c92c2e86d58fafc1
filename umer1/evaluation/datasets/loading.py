"""Benchmark YAML files (VLM2Vec's dialect) to tasks."""

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

from umer1.evaluation.datasets.config import PROMPT_SETS, TaskConfig
from umer1.evaluation.datasets.image import (
    load_image_classification,
    load_image_question,
    load_image_to_image,
    load_text_to_image,
)
from umer1.evaluation.datasets.tasks import EvalTask
from umer1.evaluation.datasets.video import load_momentseeker, load_msrvtt, load_ssv2
from umer1.evaluation.datasets.visdoc import load_vidore

PARSERS = {
    "image_cls": load_image_classification,
    "image_i2t": load_image_classification,
    "image_qa": load_image_question,
    "image_t2i": load_text_to_image,
    "image_i2i_vg": load_image_to_image,
    "ssv2": load_ssv2,
    "msrvtt": load_msrvtt,
    "momentseeker": load_momentseeker,
    "vidore": load_vidore,
}
MODALITY_FILES = ("image.yaml", "video.yaml", "visdoc.yaml")


def load_tasks(
    source: str | Path,
    *,
    data_basedir: str | Path | None = None,
    names: Iterable[str] | None = None,
    prompts: str = "ume-r1",
) -> list[EvalTask]:
    """Load a benchmark.

    Kinds of tasks (one_look, multi_step) come from tasks.json beside the data or one directory up.

    Args:
        source: a YAML file, or a directory that holds image.yaml, video.yaml, visdoc.yaml (directly
            or in eval/).
        data_basedir: what relative paths in the YAML are below; its own directory by default.
        names: only these tasks.
        prompts: "ume-r1" or "vlm2vec", for loaders whose instructions the two set differently.

    Raises:
        ValueError, TypeError: an unknown parser, a missing table, a malformed row. Media are not
            looked at here.
    """
    if prompts not in PROMPT_SETS:
        raise ValueError(f"prompts: got {prompts!r}, need one of {', '.join(PROMPT_SETS)}")
    wanted = None if names is None else list(names)
    entries: dict[str, TaskConfig] = {}
    for path in yaml_files(Path(source)):
        basedir = Path(data_basedir) if data_basedir else path.parent
        for name, fields in _read(path).items():
            if name in entries:
                raise ValueError(f"{path}: task {name} is listed twice")
            entries[name] = TaskConfig(name, fields, basedir, prompts)
    if unknown := sorted(set(wanted or ()) - set(entries)):
        raise ValueError(f"no task named {', '.join(unknown)}; there are {', '.join(entries)}")
    chosen = [entries[name] for name in entries if wanted is None or name in wanted]
    return [_load(config) for config in chosen]


def yaml_files(source: Path) -> list[Path]:
    """The YAML files that `source` stands for."""
    if source.is_file():
        return [source]
    for directory in (source, source / "eval"):
        found = [directory / name for name in MODALITY_FILES if (directory / name).is_file()]
        if found:
            return found
    raise ValueError(
        f"{source}: neither a YAML file nor a directory with {', '.join(MODALITY_FILES)}"
    )


def _load(config):
    parser = config.fields.get("dataset_parser")
    if parser not in PARSERS:
        raise ValueError(
            f"{config.name}: unknown dataset_parser {parser!r}, known are {', '.join(PARSERS)}"
        )
    task = PARSERS[parser](config)
    task.kind = _kinds(config.basedir).get(config.name, {}).get("kind")
    return task


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
