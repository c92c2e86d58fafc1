"""A finished evaluation, read back from its directory: settings, vectors, texts, rankings, scores.

    from umer1.evaluation.runs import load_run
    run = load_run("runs/eval")
    gen = run.tasks["digit_sum"].per_query("hit@1", "gen", "gen")    # float64 [N]

Nothing is read before it is asked for. Files written by others are not trusted: pickles go through
the restricted reader, arrays are loaded without pickles.
N queries, C candidates, D dimension, k samples.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalQuery, EvalTask
from umer1.evaluation.files import ResultFiles
from umer1.evaluation.modes import parse_modes
from umer1.evaluation.report import Report
from umer1.evaluation.scores.metrics import CUTOFFS, METRICS, score_query
from umer1.evaluation.scores.scoring import top_is_right

SIDES = ("qry", "tgt")
KNOWN_METRICS = tuple(f"{metric}@{k}" for metric in METRICS for k in CUTOFFS)


@dataclass(slots=True)
class Run:
    """settings: of report.json. tasks: task name -> TaskRun, in the report's order."""

    directory: Path
    settings: dict
    tasks: dict[str, "TaskRun"]
    report: Report


def load_run(directory: str | Path) -> Run:
    """Open the output directory of an evaluation (or its report.json).

    Raises ValueError when there is no finished report, or one of another version.
    """
    directory = Path(directory)
    path = directory if directory.name == "report.json" else directory / "report.json"
    if not path.is_file():
        raise ValueError(f"run: {path} is not there; need the directory of a finished evaluation")
    report = Report.load(path)
    tasks = {name: TaskRun(name, path.parent, entry) for name, entry in report.tasks.items()}
    return Run(path.parent, report.settings, tasks, report)


@dataclass
class TaskRun:
    """One task of a run. entry: its entry in report.json."""

    name: str
    directory: Path
    entry: dict
    _scores: dict = field(default_factory=dict, repr=False)

    @property
    def files(self) -> ResultFiles:
        return ResultFiles(self.directory, self.name)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(query mode, candidate mode) pairs that were scored."""
        return parse_modes([column for column in self.entry["main"] if column != "oracle"])

    @cached_property
    def queries(self) -> list[dict] | None:
        """Rows of the query index: row, name, text, image, video. None in runs that have none."""
        return self._index("qry", self.entry["queries"])

    @cached_property
    def candidates(self) -> list[dict] | None:
        """Rows of the candidate index, in candidate order. None in runs that have none."""
        return self._index("tgt", self.entry["candidates"])

    @cached_property
    def candidate_names(self) -> list[str]:
        """Names in the order of the candidates' vectors."""
        if self.candidates is not None:
            return [row["name"] for row in self.candidates]
        paths = [self.files.vectors("tgt", mode) for _, mode in self.pairs]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ValueError(f"{self.name}: neither {paths[0].name} nor an index of candidates")
        return files.load_candidates(path)[0]

    def vectors(self, side: str, mode: str) -> np.ndarray:
        """float32 [N, D] of the queries ("qry") or [C, D] of the candidates ("tgt")."""
        if side not in SIDES:
            raise ValueError(f"side: got {side!r}, need qry or tgt")
        path = self.files.vectors(side, mode)
        array = path.with_name(path.name + ".npy")
        if array.is_file():
            vectors = files.load_array(array).astype(np.float32, copy=False)
        elif not path.is_file():
            raise ValueError(f"{self.name}: no {mode} vectors, {path.name} is not there")
        elif side == "qry":
            vectors = files.load_queries(path)
        else:
            vectors = files.load_candidates(path)[1]
        expected = self.entry["queries" if side == "qry" else "candidates"]
        if vectors.ndim != 2 or len(vectors) != expected:
            raise ValueError(f"{path}: holds {list(vectors.shape)}, need {expected} rows")
        return vectors

    def texts(self, side: str, mode: str = "gen") -> list[dict] | None:
        """What the model wrote, a row per item: finish, reasoning, summary, perhaps tokens."""
        path = self.files.texts(side, mode)
        return files.load_jsonl(path) if path.is_file() else None

    def samples(self) -> np.ndarray | None:
        """Sampled gen vectors of the queries, float32 [N, k, D]."""
        path = self.files.samples()
        return files.load_array(path) if path.is_file() else None

    def sample_texts(self) -> list[dict] | None:
        """What was written for the samples: lists of k under finish, reasoning, summary."""
        path = self.files.sample_texts()
        return files.load_jsonl(path) if path.is_file() else None

    def samples_right(self, ties: str = "stable") -> np.ndarray | None:
        """bool [N, k]: whether a sample of a query ranks a right candidate first, candidates being
        the greedy ones. None without samples.
        """
        sampled = self.samples()
        if sampled is None:
            return None
        queries = [
            EvalQuery({}, info["cand_names"], info["label_name"], info.get("rel_scores"))
            for info in self.infos()
        ]
        candidates = dict.fromkeys(self.candidate_names, {})
        modality, kind = self.entry["modality"], self.entry["eval_type"]
        task = EvalTask(self.name, modality, kind, queries, candidates)
        return top_is_right(task, sampled, self.vectors("tgt", "gen"), ties=ties)

    def infos(self) -> list[dict]:
        """Rows of `_info.jsonl`: cand_names, label_name, perhaps rel_scores."""
        for pair in self.pairs:
            path = self.files.scored(*pair, "info.jsonl")
            if path.is_file():
                return files.load_jsonl(path)
        raise ValueError(f"{self.name}: no _info.jsonl in {self.directory}")

    def predictions(self, query_mode: str, target_mode: str) -> list[dict]:
        """Rows of `_pred.jsonl`: prediction (ranked names), label (names), rel_scores."""
        return list(self.iterate_predictions(query_mode, target_mode))

    def iterate_predictions(self, query_mode: str, target_mode: str) -> Iterator[dict]:
        """The same row by row: a full ranking of many candidates need not be in memory."""
        path = self.files.scored(query_mode, target_mode, "pred.jsonl")
        if not path.is_file():
            raise ValueError(f"{self.name}: not scored as {query_mode}-{target_mode}: no {path}")
        with open(path, encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.strip())

    def per_query(self, metric: str, query_mode: str, target_mode: str) -> np.ndarray:
        """float64 [N]: a metric such as "hit@1" or "ndcg_linear@5" of every query.

        Computed from the stored rankings with grades paired rightly, whatever pairing was reported.
        """
        if metric not in KNOWN_METRICS:
            raise ValueError(f"metric: got {metric!r}, need one of {', '.join(KNOWN_METRICS)}")
        pair = (query_mode, target_mode)
        if pair not in self._scores:
            self._scores[pair] = self._score(pair)
        return self._scores[pair][metric]

    def _score(self, pair):
        rows = [
            score_query(
                list(islice(row["prediction"], max(CUTOFFS))), row["label"], row.get("rel_scores")
            )
            for row in self.iterate_predictions(*pair)
        ]
        if len(rows) != self.entry["queries"]:
            path = self.files.scored(*pair, "pred.jsonl")
            raise ValueError(
                f"{path}: holds {len(rows)} queries, the report says {self.entry['queries']}"
            )
        return {
            name: np.array([row[name] for row in rows], dtype=np.float64) for name in KNOWN_METRICS
        }

    def _index(self, side, expected):
        path = self.directory / f"{self.name}_{side}_index.jsonl"
        if not path.is_file():
            return None
        rows = files.load_jsonl(path)
        if len(rows) != expected:
            raise ValueError(f"{path}: holds {len(rows)} rows, the report says {expected}")
        return rows
