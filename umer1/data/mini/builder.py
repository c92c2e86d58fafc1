"""Building the miniature benchmark into a directory, all of it or nothing."""

import fcntl
import json
import math
import platform
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import yaml

from umer1.data.mini import tasks_image, tasks_video, tasks_visdoc
from umer1.data.mini.sources import PACKAGES, SPLITS, Sources, load_sources
from umer1.data.mini.task import Draw, Example, Task
from umer1.data.mini.write_eval import write_jsonl, write_task
from umer1.data.mini.write_train import TrainingSet
from umer1.progress import progress_bar

VERSION = 6  # raise it when the same seed gives other content than before
TASKS: tuple[Task, ...] = (*tasks_image.TASKS, *tasks_video.TASKS, *tasks_visdoc.TASKS)
MODALITIES = ("image", "video", "visdoc")
FEWEST_QUERIES = 40
RECORD = "build.json"  # marks a finished benchmark


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs per task at scale 1.

    sft          SFT pairs of single tasks by name, instead of multi_step or one_look
    evaluation   queries (pages, for visual documents); tasks with less test content have fewer
    """

    multi_step: int = 1600
    one_look: int = 1200
    rl: int = 300
    evaluation: int = 100
    sft: dict[str, int] = field(default_factory=dict)


def build(
    out: str | Path,
    seed: int = 0,
    scale: float = 1.0,
    counts: Counts | None = None,
    progress: bool = True,
) -> Path:
    """Build the benchmark at `out` and return its path; a finished equal one is kept as it is.

    scale multiplies the training counts; below 1 also the evaluation counts, down to 40 queries.
    The result depends on seed, scale, counts and the versions of Python and of the packages used.
    Raises ValueError if `out` exists and is not a miniature benchmark, ModuleNotFoundError if
    packages are missing. An interrupted build leaves `out` untouched.
    """
    out = Path(out).absolute()
    record = _build_record(seed, scale, counts or Counts())
    out.parent.mkdir(parents=True, exist_ok=True)
    with _lock(out.with_name(f".{out.name}.lock")):
        if _existing_record(out) == record:
            return out
        partial, old = (out.with_name(f".{out.name}.{word}") for word in ("partial", "old"))
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            _build(partial, record, progress)
            if out.exists():
                out.rename(old)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return out


def task_counts(task: Task, scale: float, counts: Counts) -> dict[str, int]:
    """How many examples a task gets: {"sft", "rl", "evaluation"}."""
    sft = counts.sft.get(task.name, getattr(counts, task.kind))
    scaled = round(counts.evaluation * min(1.0, scale))
    queries = max(scaled, min(FEWEST_QUERIES, counts.evaluation))
    return {
        "sft": math.ceil(sft * scale),
        "rl": math.ceil(counts.rl * scale),
        "evaluation": min(queries, task.evaluation_limit or queries),
    }


def _build(root: Path, record: dict, progress: bool) -> None:
    seed, counts = record["seed"], Counts(**record["counts"])
    plan = {task.name: task_counts(task, record["scale"], counts) for task in TASKS}
    total = sum(sum(numbers.values()) for numbers in plan.values())
    sources = load_sources()
    (root / "train").mkdir(parents=True)
    truth_rows: list[dict] = []
    with progress_bar("mini", total, unit="examples", show=progress) as bar:
        _write_training(root / "train", sources, seed, plan, truth_rows, bar)
        _write_evaluation(root / "eval", sources, seed, plan, truth_rows, bar)
    write_jsonl(root / "truth.jsonl", truth_rows)
    _write_json(root / "sources.json", sources.provenance)
    _write_json(
        root / "tasks.json", {task.name: _task_entry(task, plan[task.name]) for task in TASKS}
    )
    _write_yaml(
        root / "registry.yaml",
        {"mini": {"annotation_path": "train/sft.json", "data_path": "train"}},
    )
    _write_json(root / RECORD, record)


def _write_training(root, sources, seed, plan, truth_rows, bar) -> None:
    for stage, split in (("sft", "train"), ("rl", "rl")):
        collected = TrainingSet(root, stage)
        for task in TASKS:
            for index, example in _examples(task, sources, split, seed, plan[task.name][stage]):
                collected.add(task, index, example)
                bar.advance()
        rows, truths = collected.ordered(np.random.default_rng([seed, SPLITS.index(split)]))
        _write_json(root / f"{stage}.json", rows)
        truth_rows += [
            {"file": f"train/{stage}.json", "row": number, **truth}
            for number, truth in enumerate(truths)
        ]
    _write_yaml(root / "rl.yaml", {"datasets": [{"json_path": "rl.json"}]})


def _write_evaluation(root, sources, seed, plan, truth_rows, bar) -> None:
    entries: dict[str, dict] = {modality: {} for modality in MODALITIES}
    for task in TASKS:
        examples = []
        for _, example in _examples(task, sources, "test", seed, plan[task.name]["evaluation"]):
            examples.append(example)
            bar.advance()
        entry, truths = write_task(root, task, examples)
        entries[task.modality][task.name] = entry
        truth_rows += [
            {"file": f"eval/{task.modality}.yaml", "row": number, **truth}
            for number, truth in enumerate(truths)
        ]
    for modality in MODALITIES:
        _write_yaml(root / f"{modality}.yaml", entries[modality])


def _examples(
    task: Task, sources: Sources, split: str, seed: int, count: int
) -> Iterator[tuple[int, Example]]:
    """Examples of one task and split. In msrvtt a caption has one right video, so all differ."""
    entropy = (seed, zlib.crc32(task.name.encode()), SPLITS.index(split))
    evaluation = split == "test"
    captions: set[str] = set()
    for index in range(count):
        attempt = 0
        while True:
            draw = Draw(sources.splits[split], index, count, evaluation, attempt, entropy)
            example = task.make(draw)
            if not (evaluation and task.parser == "msrvtt" and example.query.text in captions):
                break
            attempt += 1
        captions.add(example.query.text)
        yield index, example


def _task_entry(task: Task, numbers: dict[str, int]) -> dict:
    return {
        "modality": task.modality,
        "kind": task.kind,
        "group": task.group,
        "description": task.description,
        "metric": task.metric,
        "query_instruction": task.query_instruction,
        "target_instruction": task.target_instruction,
        "counts": numbers,
    }


def _build_record(seed: int, scale: float, counts: Counts) -> dict:
    """What the content depends on; two builds with equal records are equal."""
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: wants a whole number >= 0, got {seed!r}")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale: wants a finite number > 0, got {scale!r}")
    known = [task.name for task in TASKS]
    unknown = sorted(set(counts.sft) - set(known))
    if unknown:
        raise ValueError(f"counts.sft: unknown tasks {unknown}; known are {known}")
    numbers = {**asdict(counts), **counts.sft}
    for name, number in numbers.items():
        if name != "sft" and (not isinstance(number, int) or number < 1):
            raise ValueError(f"counts: {name} wants a whole number >= 1, got {number!r}")
    return {
        "benchmark": "umer1-mini",
        "version": VERSION,
        "seed": seed,
        "scale": float(scale),
        "counts": asdict(counts),
        "packages": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            **{name: _version(name) for name in PACKAGES.values()},
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # load_sources reports all missing packages at once
        return "missing"


def _existing_record(out: Path) -> dict | None:
    if not out.exists():
        return None
    if out.is_dir() and not any(out.iterdir()):
        return None
    if not (out / RECORD).is_file():
        raise ValueError(
            f"out: {out} exists and is not a miniature benchmark; choose another place"
        )
    return json.loads((out / RECORD).read_text(encoding="utf-8"))


@contextmanager
def _lock(path: Path):
    """One build at a time per target; a second one waits, then finds the finished benchmark."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_json(path: Path, content: dict | list) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_yaml(path: Path, content: dict) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=200), encoding="utf-8")
