"""Ranking metrics of MMEB-V2, per query and averaged.

Eight metrics at three cut-offs, defined for one query with `n` distinct labels of which `found` are
in the top k:

    hit@k                1 if found > 0
    ndcg_linear@k        gain = grade, discount log2(rank + 1), ideal over all grades, cut at k
    ndcg_exponential@k   gain = 2^grade - 1,    the same otherwise
    precision@k          found / k              (k even when fewer candidates exist)
    recall@k             found / n              (1.0 when the query has no labels)
    f1@k                 harmonic mean of the two, 0 when both are 0
    map@k                sum over hit positions of the precision there, / min(n, k)
    mrr@k                1 / rank of the first hit within k

A repeated candidate name counts once for hit, precision, recall and F1, and once per position for
AP and DCG. These are the rules of VLM2Vec's evaluation, on purpose to the last edge case, so that
scores compare one by one. `score_query` is written as they are defined; `metrics_batch` computes
the same for many queries at once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np

from umer1.evaluation.scores.metrics_batch import CUTOFFS, METRICS, TOP, LabelTable, score_labels
from umer1.evaluation.scores.set_order import set_order

PAIRINGS = ("correct", "upstream")

Label = Hashable
Labels = Label | Sequence[Label]


def score_query(
    ranking: Sequence[Label],
    labels: Labels,
    grades: Sequence[float] | None = None,
    *,
    upstream_pairing: bool = False,
) -> dict[str, float]:
    """All metrics of one query, keyed `metric@k` in the order of upstream's score files.

    ranking: candidate names, best first. labels: one name, or several. grades: relevance of each
    label, in the order of `labels`; every label has grade 1 without them.
    upstream_pairing: pair grades with labels as VLM2Vec does, after a trip of the labels through a
    set. It is wrong when grades differ, and for string names it changes with PYTHONHASHSEED; it
    exists to explain published numbers. Raises ValueError when grades and labels differ in number,
    or when a graded label is listed twice.
    """
    distinct, paired = pair_grades(labels, grades, upstream_pairing=upstream_pairing)
    grade_of = dict(zip(distinct, paired, strict=True))
    gains = {
        "ndcg_linear": grade_of,
        "ndcg_exponential": {name: 2.0**grade - 1.0 for name, grade in grade_of.items()},
    }
    top = list(ranking[: max(CUTOFFS)])
    at = {k: _score_at(top[:k], k, distinct, gains) for k in CUTOFFS}
    return {f"{metric}@{k}": at[k][metric] for metric in METRICS for k in CUTOFFS}


@dataclass(slots=True)
class QueryScores:
    """Metric values of every query of a task: `values["hit@1"]` is float64 [number of queries]."""

    values: dict[str, np.ndarray]
    num_pred: int
    num_data: int

    def mean(self) -> dict[str, float]:
        """Content of upstream's `_score.json`: plain means over the queries, then num_pred and
        num_data.
        """
        means = {name: float(np.mean(value)) for name, value in self.values.items()}
        return {**means, "num_pred": self.num_pred, "num_data": self.num_data}


def score_queries(predictions: Sequence[Mapping], *, upstream_pairing: bool = False) -> QueryScores:
    """Score rows of upstream's `_pred.jsonl`: {"prediction": [...], "label": ..., "rel_scores":
    [...] | None}.
    """
    if not predictions:
        raise ValueError("predictions: got no queries, nothing can be averaged")
    label_at = np.full((len(predictions), TOP), -1, dtype=np.int64)
    grades = []
    for number, row in enumerate(predictions):
        try:
            distinct, paired = pair_grades(
                row["label"], row.get("rel_scores"), upstream_pairing=upstream_pairing
            )
        except ValueError as error:
            raise ValueError(f"query {number}: {error}") from None
        place = {name: index for index, name in enumerate(distinct)}
        top = [place.get(name, -1) for name in row["prediction"][:TOP]]
        label_at[number, : len(top)] = top
        grades.append(paired)
    return QueryScores(score_labels(label_at, LabelTable.of(grades)), *[len(predictions)] * 2)


def has_unequal_grades(predictions: Sequence[Mapping]) -> bool:
    """Whether upstream's pairing can change any score: some query's grades differ."""
    return any(len(set(row.get("rel_scores") or ())) > 1 for row in predictions)


def pair_grades(
    labels: Labels, grades: Sequence[float] | None, *, upstream_pairing: bool = False
) -> tuple[list[Label], list[float]]:
    """Distinct labels and the grade of each: 1 without grades. Raises as score_query does."""
    names = list(labels) if isinstance(labels, list | tuple) else [labels]
    distinct = list(dict.fromkeys(names))
    if grades is None:
        return distinct, [1.0] * len(distinct)
    if len(grades) != len(distinct):
        repeated = f" ({len(distinct)} distinct)" if len(distinct) != len(names) else ""
        raise ValueError(
            f"rel_scores: got {len(grades)} grades for {len(names)} labels{repeated}, "
            "need one per label and no label twice"
        )
    # where grades are equal any order gives the same
    unequal = len(set(grades)) > 1
    order = set_order(names) if upstream_pairing and unequal else distinct
    grade_of = dict(zip(order, map(float, grades), strict=True))
    return distinct, [grade_of[name] for name in distinct]


def _score_at(top, k, distinct, gains):
    relevant = [name in gains["ndcg_linear"] for name in top]
    found = len(set(top) & set(distinct))
    precision = found / k
    recall = found / len(distinct) if distinct else 1.0
    hits_so_far, average_precision, first_hit = 0, 0.0, 0
    for rank, is_hit in enumerate(relevant, start=1):
        if is_hit:
            hits_so_far += 1
            average_precision += hits_so_far / rank
            first_hit = first_hit or rank
    return {
        "hit": float(found > 0),
        "ndcg_linear": _ndcg(top, k, gains["ndcg_linear"]),
        "ndcg_exponential": _ndcg(top, k, gains["ndcg_exponential"]),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if found else 0.0,
        "map": average_precision / min(len(distinct), k) if distinct else 0.0,
        "mrr": 1.0 / first_hit if first_hit else 0.0,
    }


def _ndcg(top, k, gain_of):
    ideal = sum(
        gain / log2(rank + 1)
        for rank, gain in enumerate(sorted(gain_of.values(), reverse=True)[:k], 1)
    )
    gained = sum(gain_of.get(name, 0.0) / log2(rank + 1) for rank, name in enumerate(top, 1))
    return gained / ideal if ideal > 0 else 0.0
