"""Fusions of samples against rankings worked out by hand."""

import numpy as np
import pytest

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.insights.fusion import FUSIONS, fuse, fused_columns, sizes

# three samples, four candidates: two samples prefer candidate 1 narrowly, one candidate 3 by far
SCORES = np.array([[0.1, 0.5, 0.4, 0.45], [0.2, 0.5, 0.1, 0.49], [0.0, 0.1, 0.2, 0.9]], np.float32)
# the last two samples are near each other, the first one is apart
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0.8, 0.6]], np.float32)
SUMMARIES = ["a", "b", "a"]


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        ("mean_vector", 3),  # means .1 .367 .233 .613
        ("medoid", 3),  # sample 2
        ("majority", 1),  # two votes of three
        ("self_consistency", 1),  # .92 + .62 of candidate 1 outweigh .08 + .38 + 1 of candidate 3
        ("same_summary", 3),  # samples 0 and 2: .05 .3 .3 .675
        ("surest", 3),  # sample 2 leads by most
    ],
)
def test_each_rule_by_hand(rule, first):
    vectors = VECTORS.copy()
    vectors[0] = [0, 0, 1]  # 0.6 from sample 2, which is 0.8 from sample 1: it is in the middle
    assert fuse(rule, SCORES, vectors, SUMMARIES).argmax() == first


def test_medoid_is_the_sample_in_the_middle_and_the_first_of_equals():
    # samples 1 and 2 are near each other, sample 0 is apart from both
    np.testing.assert_array_equal(fuse("medoid", SCORES, VECTORS, SUMMARIES), SCORES[1])
    turned = [2, 1, 0]
    np.testing.assert_array_equal(
        fuse("medoid", SCORES[turned], VECTORS[turned], SUMMARIES), SCORES[2]
    )
    middle = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0]], np.float32)
    np.testing.assert_array_equal(fuse("medoid", SCORES, middle, SUMMARIES), SCORES[1])


def test_equal_votes_fall_to_the_higher_mean_score():
    scores = np.array([[0.9, 0.8, 0.0], [0.1, 0.8, 0.0]], np.float32)
    fused = fuse("majority", scores, VECTORS[:2], SUMMARIES[:2])
    assert list(np.argsort(-fused)) == [1, 0, 2]


def test_a_vote_outweighs_any_score():
    scores = np.array([[0.01, 0.02], [0.01, 0.02], [1.0, -1.0]], np.float32)
    assert fuse("majority", scores, VECTORS, SUMMARIES).argmax() == 1


@pytest.mark.parametrize("rule", FUSIONS)
def test_one_sample_keeps_its_order(rule):
    scores = np.random.default_rng(0).uniform(-1, 1, (1, 7)).astype(np.float32)
    fused = fuse(rule, scores, VECTORS[:1], ["x"])
    np.testing.assert_array_equal(np.argsort(-fused), np.argsort(-scores[0]))


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="rule: got 'mean', wants one of mean_vector"):
        fuse("mean", SCORES, VECTORS, SUMMARIES)


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (9, [1, 2, 4, 8, 9])]
)
def test_sizes(samples, expected):
    assert sizes(samples) == expected


def unit(array):
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def sampled_task(samples=5, seed=0):
    random = np.random.default_rng(seed)
    names = [f"c{number}" for number in range(6)]
    return EvaluatedTask(
        name="task",
        modality="image",
        kind=None,
        eval_type="global",
        main_metric="hit@1",
        infos=[{"cand_names": names, "label_name": names[n % 6]} for n in range(4)],
        names=names,
        queries={mode: unit(random.standard_normal((4, 8))) for mode in ("disc", "gen")},
        candidates={mode: unit(random.standard_normal((6, 8))) for mode in ("disc", "gen")},
        right={mode: np.zeros(4) for mode in ("disc", "gen")},
        texts=[{"finish": "gen_emb", "reasoning": "r", "summary": "s"}] * 4,
        samples=unit(random.standard_normal((4, samples, 8))),
        sample_texts=[{"summary": [f"{n % 2}" for n in range(samples)]}] * 4,
    )


def test_columns_are_means_over_groups_of_samples():
    task = sampled_task()
    columns = fused_columns(task)
    right = np.stack(
        [
            (task.samples[row] @ task.candidates["gen"].T).argmax(axis=1) == row % 6
            for row in range(4)
        ]
    )
    np.testing.assert_allclose(columns["sample"], right.mean(axis=1))
    # 5 samples hold two groups of 2, one of 4, one of 5; the rest is left over
    pairs = np.stack([right[:, 0:2].any(axis=1), right[:, 2:4].any(axis=1)])
    np.testing.assert_allclose(columns["best@2"], pairs.mean(axis=0))
    np.testing.assert_allclose(columns["best@5"], right.any(axis=1))
    means = [
        [
            (task.samples[row, at : at + 2].mean(axis=0) @ task.candidates["gen"].T).argmax() == row
            for at in (0, 2)
        ]
        for row in range(4)
    ]
    np.testing.assert_allclose(columns["mean_vector@2"], np.mean(means, axis=1))
    assert {column.partition("@")[0] for column in columns} == {"sample", "best", *FUSIONS}


def test_a_rule_that_picks_a_sample_never_beats_the_best():
    columns = fused_columns(sampled_task(samples=8, seed=3))
    for rule in ("medoid", "surest"):
        for count in (2, 4, 8):
            assert (columns[f"{rule}@{count}"] <= columns[f"best@{count}"]).all()
