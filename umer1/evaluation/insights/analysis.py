"""Insights of a run directory: read it, analyse it, write what was found.

    from umer1.evaluation.insights.analysis import analyse_run
    found = analyse_run("runs/eval", benchmark=load_tasks("data/mini"), embedder=Embedder.load("tiny"))
    print(found.text())

Written into the run's directory: insights.json (all numbers), insights.md (tables),
insights_queries.jsonl (a row per query: disc, gen, oracle, each router's, fusion's and pass@k's).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask
from umer1.evaluation.evaluated import EvaluatedTask, load_evaluated
from umer1.evaluation.insights.dependence import edited_columns
from umer1.evaluation.insights.findings import Insights, insights
from umer1.evaluation.insights.rl_effect import before_columns
from umer1.evaluation.runs import Run, load_run
from umer1.progress import progress_bar


@dataclass(slots=True)
class Analysis:
    """A run's settings and what was found in it; `content` is what insights.json holds."""

    run: Run
    found: Insights

    @property
    def content(self) -> dict:
        return {"run": self.run.settings, **self.found.content}

    def text(self) -> str:
        """The tables as Markdown."""
        from umer1.evaluation.insights.text import insights_text

        return insights_text(self.content)

    def save(self) -> None:
        """Write the three files."""
        directory = self.run.directory
        files.save_jsonl(directory / "insights_queries.jsonl", self._rows())
        (directory / "insights.md").write_text(self.text() + "\n", encoding="utf-8")
        files.save_json(directory / "insights.json", self.content)

    def _rows(self) -> Iterator[dict]:
        for task, columns in self.found.columns.items():
            for row in range(len(columns["gen"])):
                values = {column: float(values[row]) for column, values in columns.items()}
                yield {"task": task, "row": row, **values}


def analyse_run(
    directory: str | Path,
    *,
    before: str | Path | None = None,
    benchmark: Iterable[EvalTask] | None = None,
    embedder=None,
    queries: int = 100,
    progress: bool = True,
) -> Analysis:
    """Analyse the evaluation in `directory`, made with modes disc and gen; samples add pass@k.

    Args:
        before: the evaluation of the same model before RL.
        benchmark, embedder: the tasks and the model of the run; with them reasoning is edited and
            read back, for at most `queries` queries per task.

    Raises:
        ValueError: the run lacks a mode, or another run or benchmark is given than it needs.
    """
    if (benchmark is None) != (embedder is None):
        raise ValueError("benchmark, embedder: got one of them; editing reasoning needs both")
    if queries < 1:
        raise ValueError(f"queries: got {queries}, wants at least 1")
    run = load_run(directory)
    tasks = load_evaluated(run)
    extra = None if before is None else before_columns(load_evaluated(load_run(before)), tasks)
    edited = None
    if embedder is not None:
        edited = _edited(tasks, list(benchmark), embedder, queries, progress)
    return Analysis(run, insights(tasks, extra=extra, edited=edited))


def _edited(tasks: list[EvaluatedTask], sources, embedder, queries, progress):
    items = {source.name: [query.item for query in source.queries] for source in sources}
    infos = {source.name: [query.info() for query in source.queries] for source in sources}
    for task in tasks:
        if infos.get(task.name) != task.infos:
            raise ValueError(f"benchmark: its {task.name} is not what the run evaluated")
    total = sum(min(queries, len(task.infos)) for task in tasks)
    with progress_bar("edit reasoning", total, unit="queries", show=progress) as bar:
        return {
            task.name: edited_columns(
                task, items[task.name], embedder, queries=queries, advance=bar.advance
            )
            for task in tasks
        }
