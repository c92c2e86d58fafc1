"""One ranking from n sampled generations of a query, without labels.

    mean_vector        the mean of the samples' vectors
    medoid             the sample nearest to all others
    majority           each sample votes for its first candidate; equal votes by mean score
    self_consistency   soft votes: the mean of the samples' softmax over the candidates
    same_summary       the mean vector of the samples that wrote the most frequent summary
    surest             the sample whose first candidate leads by most (best of n)

Every rule turns scores [n, C] of n samples and C candidates into fused scores [C]; with n = 1 all
give the order of the one sample. pass@n bounds those that pick one sample's first candidate.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.insights.score_shape import TEMPERATURE, lead

FUSIONS = (
    "mean_vector",
    "medoid",
    "majority",
    "self_consistency",
    "same_summary",
    "surest",
)
ONE, BEST = "sample", "best"  # columns that are not fused


def fuse(
    rule: str, scores: np.ndarray, vectors: np.ndarray, summaries: Sequence[str]
) -> np.ndarray:
    """Fused scores float [C] from scores float32 [n, C], vectors float32 [n, D], n summaries."""
    if rule == "mean_vector":
        return scores.mean(axis=0)
    if rule == "medoid":
        near = (vectors @ vectors.T).sum(axis=1)
        # the first of those that only rounding tells apart, as any two samples
        return scores[np.argmax(near > near.max() - 1e-5)]
    if rule == "majority":
        votes = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])
        # cosines differ by at most 2: a vote outweighs any mean score
        return 3.0 * votes + scores.mean(axis=0)
    if rule == "self_consistency":
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / TEMPERATURE)
        return (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)
    if rule == "same_summary":
        common = Counter(summaries).most_common(1)[0][0]
        return scores[[summary == common for summary in summaries]].mean(axis=0)
    if rule == "surest":
        return scores[np.argmax(lead(scores))]
    raise ValueError(f"rule: got {rule!r}, wants one of {', '.join(FUSIONS)}")


def fused_columns(task: EvaluatedTask) -> dict[str, np.ndarray]:
    """Column -> main metric of each query, float64 [N], for n = 2, 4, 8 … up to the k samples.

    "sample" is one sample alone, "mean_vector@4" four samples fused, "best@4" the best of four by
    the labels, which bounds every rule that picks a sample. A value is the mean over the k // n
    groups of n successive samples: no sample is preferred to another.
    """
    columns: dict[str, np.ndarray] = {}
    asked = zip(task.infos, task.candidate_rows(), task.scores("gen", task.samples), strict=True)
    for query, (info, rows, scores) in enumerate(asked):
        alone = np.array([task.main_of(info, rows, own) for own in scores])
        for column, value in _values(task, query, info, rows, scores, alone):
            columns.setdefault(column, np.zeros(len(task.infos)))[query] = value
    return columns


def _values(task, query, info, rows, scores, alone):
    """(column, value) of one query: scores [k, own candidates], alone [k] its samples' metric."""
    yield ONE, alone.mean()
    vectors, summaries = task.samples[query], task.sample_texts[query]["summary"]
    for count in sizes(len(scores))[1:]:
        groups = [slice(at, at + count) for at in range(0, len(scores) - count + 1, count)]
        yield f"{BEST}@{count}", np.mean([alone[part].max() for part in groups])
        for rule in FUSIONS:
            fused = (fuse(rule, scores[part], vectors[part], summaries[part]) for part in groups)
            yield f"{rule}@{count}", np.mean([task.main_of(info, rows, own) for own in fused])


def sizes(samples: int) -> list[int]:
    """1, 2, 4 … up to `samples`, and `samples` itself."""
    powers = [1 << power for power in range(samples.bit_length())]
    return sorted({*powers, samples})
