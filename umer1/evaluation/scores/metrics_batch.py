"""The metrics of metrics.py for many queries at once: the same values, without a loop over them.

Shapes: N queries, K = 10 top ranks, L distinct labels of all queries together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

METRICS = ("hit", "ndcg_linear", "ndcg_exponential", "precision", "recall", "f1", "map", "mrr")
CUTOFFS = (1, 5, 10)
TOP = max(CUTOFFS)
DISCOUNT = np.log2(np.arange(2, TOP + 2))


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Distinct labels of every query, one after the other.

    offsets: int64 [N + 1], where each query's begin. grades: float64 [L].
    """

    offsets: np.ndarray
    grades: np.ndarray

    @classmethod
    def of(cls, grades: Sequence[Sequence[float]]) -> "LabelTable":
        """From the grades of each query's labels."""
        sizes = [len(own) for own in grades]
        flat = [grade for own in grades for grade in own]
        return cls(np.cumsum([0, *sizes]), np.array(flat, dtype=np.float64))

    @property
    def queries(self) -> np.ndarray:
        """int64 [L]: whose label it is."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def score_labels(label_at: np.ndarray, labels: LabelTable) -> dict[str, np.ndarray]:
    """Every metric of every query, float64 [N], keyed `metric@k` in the order of score files.

    label_at: int64 [N, K], which of the query's labels stands at a rank; -1 for a wrong candidate,
    and where there are no more candidates.
    """
    count = np.diff(labels.offsets).astype(np.float64)
    hit = label_at >= 0
    found = np.cumsum(hit & ~_seen_before(label_at), axis=1)
    # average precision and gains count every position, the others every label once
    rank = np.arange(1, TOP + 1)
    precision_sum = np.cumsum(hit * np.cumsum(hit, axis=1) / rank, axis=1)
    first = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, np.inf)
    ndcg = {"ndcg_linear": _ndcg(label_at, labels, labels.grades)}
    ndcg["ndcg_exponential"] = _ndcg(label_at, labels, 2.0**labels.grades - 1.0)
    at = {}
    for k in CUTOFFS:
        inside = found[:, k - 1]
        precision, recall = inside / k, _ratio(inside, count, empty=1.0)
        at[k] = {
            "hit": (inside > 0).astype(np.float64),
            **{name: values[:, k - 1] for name, values in ndcg.items()},
            "precision": precision,
            "recall": recall,
            "f1": _ratio(2 * precision * recall, np.where(inside > 0, precision + recall, 0.0)),
            "map": _ratio(precision_sum[:, k - 1], np.minimum(count, k)),
            "mrr": np.where(first <= k, 1.0 / first, 0.0),
        }
    return {f"{metric}@{k}": at[k][metric] for metric in METRICS for k in CUTOFFS}


def _seen_before(label_at):
    """bool [N, K]: the same entry stands at an earlier rank."""
    earlier = np.tri(TOP, k=-1, dtype=bool)
    return ((label_at[:, :, None] == label_at[:, None, :]) & earlier).any(axis=2)


def _ndcg(label_at, labels, gains):
    """float64 [N, K]: the discounted gain down to each rank over the best possible one."""
    query = labels.queries
    order = np.lexsort((-gains, query))
    place = np.arange(len(query)) - labels.offsets[query]
    best = np.zeros(label_at.shape)
    inside = place < TOP
    best[query[inside], place[inside]] = gains[order][inside]
    gained = np.zeros(label_at.shape)
    hit = label_at >= 0
    gained[hit] = gains[(labels.offsets[:-1, None] + label_at)[hit]]
    return _ratio(np.cumsum(gained / DISCOUNT, axis=1), np.cumsum(best / DISCOUNT, axis=1))


def _ratio(part, whole, empty=0.0):
    """part / whole, and `empty` where the whole is not positive."""
    out = np.full(np.shape(part), empty)
    return np.divide(part, whole, out=out, where=whole > 0)
