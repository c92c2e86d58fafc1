"""Scores of a task from its vectors, in memory or from upstream's files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask
from umer1.evaluation.metrics import QueryScores, has_unequal_grades, score_queries
from umer1.evaluation.ranking import label_tied, rank_global, rank_local


@dataclass(slots=True)
class Scored:
    """One pair of modes, scored. predictions: rows of `_pred.jsonl`. upstream: the same under
    upstream's pairing of grades, only where that can differ. tied: queries whose right candidate
    ties with a wrong one at the same score."""

    scores: QueryScores
    predictions: list[dict]
    upstream: QueryScores | None
    tied: int


def score_task(
    task: EvalTask, queries: np.ndarray, candidates: np.ndarray, *, ties: str = "stable"
) -> Scored:
    """Rank and score: queries float32 [N, D] in task order, candidates float32 [C, D] in
    task.candidates' order.
    """
    infos = [query.info() for query in task.queries]
    return score_vectors(
        infos, list(task.candidates), queries, candidates, task.eval_type, ties=ties
    )


def score_files(
    queries: Path, candidates: Path, info: Path, eval_type: str, *, ties: str = "stable"
) -> Scored:
    """Score a `_qry`, a `_tgt` and an `_info.jsonl` file, whoever wrote them."""
    names, vectors = files.load_candidates(candidates)
    return score_vectors(
        files.load_jsonl(info), names, files.load_queries(queries), vectors, eval_type, ties=ties
    )


def score_vectors(
    infos: list[dict],
    names: list,
    queries: np.ndarray,
    candidates: np.ndarray,
    eval_type: str,
    *,
    ties: str = "stable",
) -> Scored:
    """Score from `_info.jsonl` rows (cand_names, label_name, rel_scores) and vectors; names label
    the candidates.
    """
    if eval_type not in ("local", "global"):
        raise ValueError(f"eval_type: got {eval_type!r}, need local or global")
    if len(infos) != len(queries):
        raise ValueError(f"queries: got {len(queries)} vectors for {len(infos)} queries")
    predictions, tied = [], 0
    for info, (order, scores) in zip(
        infos, rankings(infos, names, queries, candidates, eval_type, ties), strict=True
    ):
        ranked, labels = [names[row] for row in order], label_list(info)
        predictions.append(
            {"prediction": ranked, "label": labels, "rel_scores": info.get("rel_scores")}
        )
        tied += label_tied(ranked, scores, set(labels))
    upstream = (
        score_queries(predictions, upstream_pairing=True)
        if has_unequal_grades(predictions)
        else None
    )
    return Scored(score_queries(predictions), predictions, upstream, tied)


def rankings(infos, names, queries, candidates, eval_type, ties):
    """Per query: candidate rows, best first, and their scores."""
    if eval_type == "global":
        return rank_global(queries, candidates, ties=ties)
    row_of = {name: row for row, name in enumerate(names)}
    try:
        rows = [
            np.array([row_of[name] for name in info["cand_names"]], dtype=np.int64)
            for info in infos
        ]
    except KeyError as error:
        raise ValueError(f"candidate {error.args[0]!r} of a query has no vector") from None
    return rank_local(queries, candidates, rows, ties=ties)


def label_list(info: dict) -> list:
    """`label_name` of an info row as a list."""
    label = info["label_name"]
    return list(label) if isinstance(label, list | tuple) else [label]


def top_is_right(
    task: EvalTask, samples: np.ndarray, candidates: np.ndarray, *, ties: str
) -> np.ndarray:
    """For sampled queries float32 [N, k, D]: whether the first-ranked candidate is right, bool [N,
    k].
    """
    infos, names = [query.info() for query in task.queries], list(task.candidates)
    labels = [set(label_list(info)) for info in infos]
    right = np.zeros(samples.shape[:2], dtype=bool)
    for sample in range(samples.shape[1]):
        vectors = np.ascontiguousarray(samples[:, sample])
        ranked = rankings(infos, names, vectors, candidates, task.eval_type, ties)
        right[:, sample] = [
            names[order[0]] in label for (order, _), label in zip(ranked, labels, strict=True)
        ]
    return right
