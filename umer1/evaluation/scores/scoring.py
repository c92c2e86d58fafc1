"""Scores of a task from its vectors, in memory or from upstream's files.

Up to COMPLETE scores (every task of MMEB-V2) rankings are complete, as upstream's are. Above it
only the best KEPT candidates of a query are found, in blocks and in bounded memory, and equal
scores keep the order of the candidates whatever `ties` says; `Scored.notes` says so.
Shapes: N queries, C candidates, D dimension, k samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from umer1.evaluation import files
from umer1.evaluation.datasets import EvalTask
from umer1.evaluation.scores.labels import LabelRows
from umer1.evaluation.scores.metrics import PAIRINGS, QueryScores, has_unequal_grades
from umer1.evaluation.scores.metrics_batch import TOP, score_labels
from umer1.evaluation.scores.predictions import Predictions
from umer1.evaluation.scores.ranking import SORTS, Ranked, iterate_global, iterate_local

COMPLETE, KEPT = 50_000_000, 100


@dataclass(slots=True)
class Scored:
    """One pair of modes, scored.

    scores: under the pairing of grades that was asked for. predictions: rows of `_pred.jsonl`.
    correct, upstream: the scores under either pairing, upstream's only where it can differ. tied:
    queries whose right candidate ties with a wrong one at the same score. ties: the rule that ran.
    notes: what a reader of the numbers has to know.
    """

    scores: QueryScores
    predictions: Sequence[dict]
    correct: QueryScores
    upstream: QueryScores | None
    tied: int
    ties: str = "stable"
    notes: list[str] = field(default_factory=list)


def score_task(
    task: EvalTask,
    queries: np.ndarray,
    candidates: np.ndarray,
    *,
    ties: str = "stable",
    pairing: str = "correct",
    device=None,
) -> Scored:
    """Rank and score: queries float32 [N, D] in task order, candidates float32 [C, D] in
    task.candidates' order.
    """
    infos = [query.info() for query in task.queries]
    names = list(task.candidates)
    options = {"ties": ties, "pairing": pairing, "device": device}
    return score_vectors(infos, names, queries, candidates, task.eval_type, **options)


def score_files(
    queries: Path, candidates: Path, info: Path, eval_type: str, *, ties: str = "stable", **options
) -> Scored:
    """Score a `_qry`, a `_tgt` and an `_info.jsonl` file, whoever wrote them."""
    names, vectors = files.load_candidates(candidates)
    return score_vectors(
        files.load_jsonl(info),
        names,
        files.load_queries(queries),
        vectors,
        eval_type,
        ties=ties,
        **options,
    )


def score_vectors(
    infos: list[dict],
    names: Sequence,
    queries: np.ndarray,
    candidates: np.ndarray,
    eval_type: str,
    *,
    ties: str = "stable",
    pairing: str = "correct",
    device=None,
) -> Scored:
    """Score from `_info.jsonl` rows (cand_names, label_name, rel_scores) and vectors.

    names: of the candidates, each once. candidates: float32 [C, D]; a memory-mapped array stays on
    disk. ties: "stable" or "upstream" (ranking.py). pairing: "correct", or "upstream" for the grades
    as VLM2Vec pairs them with labels (metrics.py). device: of the products; None is the CPU.

    Raises ValueError for vectors that are not finite, labels and grades that do not pair, lists that
    name a candidate without a vector.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing: got {pairing!r}, need one of {', '.join(PAIRINGS)}")
    _check(infos, names, queries, candidates, eval_type, ties)
    labels = LabelRows(infos, names)
    plan = _plan(infos, names, queries, candidates, eval_type, ties, device, labels)
    label_at = np.full((len(infos), TOP), -1, dtype=np.int64)
    kept, tied = [], 0
    for number, (order, scores) in enumerate(plan.ranked):
        label_at[number, : len(order)] = labels.places(number, order[:TOP])
        best = None if plan.best is None else plan.best[number]
        tied += _tied(order, scores, labels.rows(number), best)
        kept.append(order[: plan.kept].astype(np.int32 if len(candidates) < 2**31 else np.int64))
    predictions = Predictions(kept, names, labels.names, [info.get("rel_scores") for info in infos])
    upstream = _values(label_at, labels, True) if has_unequal_grades(infos) else None
    correct = _values(label_at, labels, False)
    chosen = upstream if upstream is not None and pairing == "upstream" else correct
    return Scored(chosen, predictions, correct, upstream, tied, plan.ties, plan.notes)


def top_is_right(
    task: EvalTask, samples: np.ndarray, candidates: np.ndarray, *, ties: str, device=None
) -> np.ndarray:
    """For sampled queries float32 [N, k, D]: whether the first-ranked candidate is right, bool [N,
    k].
    """
    infos, names = [query.info() for query in task.queries], list(task.candidates)
    right_rows = LabelRows(infos, names).place_of
    first = np.empty(samples.shape[:2], dtype=np.int64)
    if task.eval_type == "global" and ties == "stable":
        from umer1.evaluation.scores.top_candidates import rank_top

        top = rank_top(samples.reshape(-1, samples.shape[2]), candidates, 1, device=device)
        first[:] = top.rows.reshape(first.shape)
    else:
        for sample in range(samples.shape[1]):
            vectors = np.ascontiguousarray(samples[:, sample])
            ranked = rankings(infos, names, vectors, candidates, task.eval_type, ties, device)
            first[:, sample] = [order[0] for order, _ in ranked]
    pairs = zip(first.tolist(), right_rows, strict=True)
    return np.array([[row in own for row in rows] for rows, own in pairs], dtype=bool)


def rankings(infos, names, queries, candidates, eval_type, ties, device=None) -> Iterator[Ranked]:
    """Per query: all its candidates' rows, best first, and their scores."""
    if eval_type == "global":
        return iterate_global(queries, candidates, ties=ties, device=device)
    row_of = {name: row for row, name in enumerate(names)}
    try:
        rows = [
            np.array([row_of[name] for name in info["cand_names"]], dtype=np.int64)
            for info in infos
        ]
    except KeyError as error:
        raise ValueError(f"candidate {error.args[0]!r} of a query has no vector") from None
    return iterate_local(queries, candidates, rows, ties=ties, device=device)


@dataclass(frozen=True, slots=True)
class _Plan:
    """ranked: per query rows and scores. kept: to which rank rankings are kept, None for all. best:
    float32 [N], each query's best right score, where the rankings need not show it.
    """

    ranked: Iterable[Ranked]
    ties: str
    kept: int | None = None
    best: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def _plan(infos, names, queries, candidates, eval_type, ties, device, labels):
    if eval_type == "local":
        listed = sum(len(info["cand_names"]) for info in infos)
        kept = KEPT if listed > COMPLETE else None
        notes = [f"rankings are written down to rank {KEPT}"] if kept else []
        ranked = rankings(infos, names, queries, candidates, eval_type, ties, device)
        return _Plan(ranked, ties, kept, notes=notes)
    if len(queries) * len(candidates) <= COMPLETE:
        ranked = rankings(infos, names, queries, candidates, eval_type, ties, device)
        return _Plan(ranked, ties)
    notes = [f"the best {KEPT} of {len(candidates)} candidates were ranked and written"]
    if ties != "stable":
        notes.append(
            "equal scores keep candidate order: upstream's order needs complete rankings, and "
            f"those end at {COMPLETE:,} scores"
        )
    from umer1.evaluation.scores.top_candidates import rank_top

    pairs = labels.pairs()
    top = rank_top(queries, candidates, KEPT, device=device, watch=pairs)
    best = np.full(len(queries), -np.inf, dtype=np.float32)
    np.maximum.at(best, pairs[0], top.watched)
    ranked = ((rows[rows >= 0], scores) for rows, scores in zip(top.rows, top.scores, strict=True))
    return _Plan(ranked, "stable", KEPT, best, notes)


def _tied(order, scores, right_rows, best):
    """Whether a wrong candidate scores exactly as high as the best right one."""
    right = np.isin(order, right_rows)
    if best is None:
        if not right.any():
            return False
        best = scores[: len(order)][right].max()
    return bool((scores[: len(order)][~right] == best).any())


def _values(label_at, labels, upstream_pairing):
    table = labels.table(upstream_pairing=upstream_pairing)
    return QueryScores(score_labels(label_at, table), len(label_at), len(label_at))


def _check(infos, names, queries, candidates, eval_type, ties):
    if eval_type not in ("local", "global"):
        raise ValueError(f"eval_type: got {eval_type!r}, need local or global")
    if ties not in SORTS:
        raise ValueError(f"ties: got {ties!r}, need one of {', '.join(SORTS)}")
    if not infos:
        raise ValueError("queries: got none, nothing can be averaged")
    if len(infos) != len(queries):
        raise ValueError(f"queries: got {len(queries)} vectors for {len(infos)} queries")
    if len(names) != len(candidates):
        raise ValueError(f"candidates: got {len(candidates)} vectors for {len(names)} names")
