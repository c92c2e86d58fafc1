"""What a benchmark lacks, found in seconds and before any model is loaded.

    check = check_benchmark("mmeb-v2", data_basedir="MMEB-V2", hub_map="tables")
    print("\\n".join(check.lines()))
    check.ok or sys.exit(1)

Every task is opened by its own loader, so what passes here can be evaluated: tables are there and
well formed, labels can be reached, counts are the published ones, every picture and frame is a file.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from umer1.evaluation.datasets.config import TaskConfig
from umer1.evaluation.datasets.loading import load_task, open_entries
from umer1.evaluation.datasets.media import missing_media
from umer1.evaluation.datasets.tasks import EvalTask
from umer1.evaluation.datasets.visdoc import PAGE_FILES
from umer1.progress import progress_bar


@dataclass(slots=True)
class TaskCheck:
    """What was found of one task; counts are None where its table could not be read.

    problems: one sentence each, what to mend before an evaluation. notes: what to know.
    expected_queries, expected_candidates: of the published benchmark, where they are known.
    """

    name: str
    parser: str | None
    modality: str | None = None
    group: str | None = None
    scope: str | None = None
    queries: int | None = None
    candidates: int | None = None
    expected_queries: int | None = None
    expected_candidates: int | None = None
    media: int | None = None
    missing: int | None = None
    example: str | None = None
    revision: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class BenchmarkCheck:
    """One TaskCheck per task."""

    tasks: list[TaskCheck]

    @property
    def ok(self) -> bool:
        return not any(task.problems for task in self.tasks)

    @property
    def missing(self) -> int:
        """Pictures and frames that are not there; a video without frames is one."""
        return sum(task.missing or 0 for task in self.tasks)

    def to_dict(self) -> dict:
        return {
            "ok": self.ok,
            "missing": self.missing,
            "tasks": [asdict(task) for task in self.tasks],
        }

    def lines(self) -> list[str]:
        """A table of the tasks, then their problems and notes."""
        columns = ("name", "scope", "queries", "candidates", "media", "missing")
        rows = [("task", *columns[1:])]
        rows += [tuple(_shown(getattr(task, key)) for key in columns) for task in self.tasks]
        widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        for task in self.tasks:
            lines += [f"{task.name}: {problem}" for problem in task.problems]
            lines += [f"{task.name}: note: {note}" for note in task.notes]
        bad = sum(bool(task.problems) for task in self.tasks)
        found = (
            f"{bad} with problems, {self.missing} media missing" if bad else "nothing is missing"
        )
        return [*lines, f"{len(self.tasks)} tasks, {found}"]


def check_benchmark(
    source: str | Path,
    *,
    data_basedir: str | Path | None = None,
    names: Iterable[str] | None = None,
    prompts: str = "ume-r1",
    hub_map: str | Path | None = None,
    page_data: str = "fixed",
    progress: bool = False,
) -> BenchmarkCheck:
    """Check every task of a benchmark; arguments as for `load_tasks`.

    Raises ValueError only for what concerns the benchmark as a whole (no such YAML, unknown names);
    a task that cannot be opened is a task with a problem.
    """
    configs = open_entries(
        source,
        data_basedir=data_basedir,
        names=names,
        prompts=prompts,
        hub_map=hub_map,
        page_data=page_data,
    )
    checks = []
    with progress_bar("check", len(configs), unit="tasks", show=progress) as bar:
        for config in configs:
            checks.append(check_entry(config))
            bar.advance(1)
    return BenchmarkCheck(checks)


def check_entry(config: TaskConfig) -> TaskCheck:
    """Open one task and look for what it needs."""
    found = TaskCheck(config.name, config.fields.get("dataset_parser"))
    try:
        task = load_task(config)
    except (ValueError, TypeError) as error:
        found.problems.append(str(error).removeprefix(f"{config.name}: "))
        return found
    except OSError as error:
        found.problems.append(f"cannot read {error.filename}: {error.strerror}")
        return found
    found.modality, found.group, found.scope = task.modality, task.group, task.eval_type
    found.queries, found.candidates = len(task.queries), len(task.candidates)
    found.revision, found.notes = task.revision, list(task.notes)
    _check_counts(found, task, config)
    _check_items(found, task)
    _check_media(found, task, config)
    return found


def _check_counts(found, task: EvalTask, config):
    if task.expected is None:
        return
    queries, candidates = task.expected
    if queries is not None:
        queries = len(config.limit(range(queries)))
    found.expected_queries, found.expected_candidates = queries, candidates
    for what, number, expected in (
        ("queries", found.queries, queries),
        ("candidates", found.candidates, candidates),
    ):
        if expected is not None and number != expected:
            found.problems.append(f"{number} {what}, the published benchmark has {expected}")


def _check_items(found, task):
    items = [*(query.item for query in task.queries), *task.candidates.values()]
    if empty := sum(not any(_says_something(part) for part in item.values()) for item in items):
        found.problems.append(f"{empty} items have neither text nor media, and cannot be embedded")


def _says_something(part):
    return bool(part.strip() if isinstance(part, str) else part)


def _check_media(found, task, config):
    gone, found.media = missing_media(task)
    found.missing = len(gone)
    if not gone:
        return
    found.example = gone[0]
    found.problems.append(f"{len(gone)} of {found.media} media are missing, e.g. {gone[0]}")
    if ready := sum(video.is_file() for video in config.videos.values()):
        found.notes.append(
            f"for {ready} of its videos there is a video file: umer1 eval prepare takes their frames"
        )
    if found.parser in PAGE_FILES:
        files = config.table("corpus").files
        if all(path.suffix in (".parquet", ".arrow") for path in files):
            found.notes.append(
                "its corpus table holds pictures of pages: umer1 eval prepare writes those that "
                "are missing"
            )


def _shown(value):
    return "-" if value is None else str(value)
