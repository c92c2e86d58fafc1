"""A task of a finished evaluation with both modes: what the analyses of a run look at.

N queries, C candidates, D dimension, k samples. Vectors are float32 and L2-normalised.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from umer1.evaluation.runs import Run
from umer1.evaluation.scores.identical import find_copies
from umer1.evaluation.scores.metrics import CUTOFFS, score_query

MODES = ("disc", "gen")


@dataclass(slots=True)
class EvaluatedTask:
    """infos: rows of `_info.jsonl`. names: the candidates, in the order of their vectors.

    queries, candidates: mode -> [N, D], mode -> [C, D]. right: mode -> main metric of each query in
    the run's own rankings, float64 [N]. texts: what the model wrote for each query ({finish,
    reasoning, summary}). samples: sampled gen vectors of the queries [N, k, D], with their texts
    (the same fields, k values each); None where none were drawn.
    """

    name: str
    modality: str
    kind: str | None
    eval_type: str
    main_metric: str
    infos: list[dict]
    names: list[str]
    queries: Mapping[str, np.ndarray]
    candidates: Mapping[str, np.ndarray]
    right: Mapping[str, np.ndarray]
    texts: list[dict]
    samples: np.ndarray | None = None
    sample_texts: list[dict] | None = None

    def candidate_rows(self) -> list[np.ndarray]:
        """Per query the rows of the candidates it is ranked against, int64."""
        if self.eval_type == "global":
            return [np.arange(len(self.names))] * len(self.infos)
        row_of = {name: row for row, name in enumerate(self.names)}
        return [np.array([row_of[name] for name in info["cand_names"]]) for info in self.infos]

    def part(self, queries: Sequence[int]) -> "EvaluatedTask":
        """The same task with these queries alone, without samples."""
        return replace(
            self,
            infos=[self.infos[row] for row in queries],
            queries={mode: vectors[list(queries)] for mode, vectors in self.queries.items()},
            right={mode: values[list(queries)] for mode, values in self.right.items()},
            texts=[self.texts[row] for row in queries],
            samples=None,
            sample_texts=None,
        )

    def scores(self, mode: str, vectors: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Query by query the scores of its candidates, in their order: float32 [own candidates].
        Identical candidates have equal scores, as in an evaluation with stable ties.

        vectors: other queries than the run's, [N, D], or several per query, [N, n, D]: the scores
        are then [n, own candidates]; mode is that of the candidates.
        """
        queries = self.queries[mode] if vectors is None else vectors
        candidates = self.candidates[mode]
        copies = find_copies(candidates, "candidates")
        for query, own in zip(queries, self.candidate_rows(), strict=True):
            if self.eval_type == "global":
                scores = query @ candidates.T
                scores[..., copies.rows] = scores[..., copies.first]
                yield scores
            else:
                # each vector once: a product scores its copies differently in the last bit
                distinct, places = np.unique(copies.original(own), return_inverse=True)
                yield (query @ candidates[distinct].T)[..., places]

    def main(self, scores: Iterable[np.ndarray]) -> np.ndarray:
        """The task's main metric of each query from its candidates' scores, float64 [N].

        Equal scores keep the candidates' order, as in an evaluation with stable ties.
        """
        ranked = zip(self.infos, self.candidate_rows(), scores, strict=True)
        return np.array([self.main_of(info, own, values) for info, own, values in ranked])

    def main_of(self, info: dict, rows: np.ndarray, scores: np.ndarray) -> float:
        """The main metric of one query: candidate rows int64 [c] and their scores [c]."""
        if self.main_metric == "hit@1":  # most tasks, and much faster than all metrics
            return float(self.is_right(info, rows[scores.argmax()]))
        ranking = [self.names[row] for row in rows[top(scores, max(CUTOFFS))]]
        return score_query(ranking, info["label_name"], info.get("rel_scores"))[self.main_metric]

    def is_right(self, info: dict, row: int) -> bool:
        """Whether a candidate is a label of the query."""
        label, name = info["label_name"], self.names[row]
        return name == label if isinstance(label, str) else name in label


def top(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` highest scores, best first; equal ones in their order. int64."""
    if len(scores) <= count:
        return np.argsort(-scores, kind="stable")
    limit = np.partition(scores, -count)[-count]
    places = np.flatnonzero(scores >= limit)
    return places[np.argsort(-scores[places], kind="stable")][:count]


def load_evaluated(run: Run) -> list[EvaluatedTask]:
    """The tasks of a run that was made with the modes disc and gen.

    Raises:
        ValueError: it lacks a mode, or what the model wrote.
    """
    return [_load(task) for task in run.tasks.values()]


def _load(run):
    if lacking := [mode for mode in MODES if (mode, mode) not in run.pairs]:
        raise ValueError(
            f"run: {run.name} was not evaluated in mode {lacking[0]}; wants modes disc,gen"
        )
    samples, texts = run.samples(), run.texts("qry")
    if texts is None or len(texts) != run.entry["queries"]:
        raise ValueError(f"run: what the model wrote for {run.name} is not in {run.directory}")
    return EvaluatedTask(
        name=run.name,
        modality=run.entry["modality"],
        kind=run.entry.get("kind"),
        eval_type=run.entry["eval_type"],
        main_metric=run.entry["main_metric"],
        infos=run.infos(),
        names=run.candidate_names,
        queries={mode: run.vectors("qry", mode) for mode in MODES},
        candidates={mode: run.vectors("tgt", mode) for mode in MODES},
        right={mode: run.per_query(run.entry["main_metric"], mode, mode) for mode in MODES},
        texts=texts,
        samples=samples,
        sample_texts=None if samples is None else run.sample_texts(),
    )
