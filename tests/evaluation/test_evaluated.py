"""A run's tasks read back: the same scores as the run's, ties in order, parts of a task."""

import numpy as np
import pytest

from umer1.evaluation import evaluate
from umer1.evaluation.evaluated import EvaluatedTask, load_evaluated, top
from umer1.evaluation.runs import load_run
from umer1.evaluation.scores.scoring import score_vectors


@pytest.fixture
def tasks(embedder, benchmark_dir, tmp_path):
    evaluate(embedder, benchmark_dir, output_dir=tmp_path / "run", progress=False)
    return {task.name: task for task in load_evaluated(load_run(tmp_path / "run"))}


def test_metrics_of_score_lists_are_the_runs(tasks):
    assert {task.main_metric for task in tasks.values()} == {"hit@1", "ndcg_linear@5"}
    assert {task.eval_type for task in tasks.values()} == {"local", "global"}
    for task in tasks.values():
        for mode in ("disc", "gen"):
            np.testing.assert_array_equal(task.main(task.scores(mode)), task.right[mode], task.name)


def test_several_vectors_per_query_and_a_part_of_the_queries(tasks):
    task = tasks["digit"]
    doubled = np.stack([task.queries["gen"], task.queries["disc"]], axis=1)
    part = task.part([3, 1])
    for row, scores in zip([3, 1], part.scores("gen", doubled[[3, 1]]), strict=True):
        names = task.infos[row]["cand_names"]
        rows = [task.names.index(name) for name in names]
        np.testing.assert_allclose(scores, doubled[row] @ task.candidates["gen"][rows].T, rtol=1e-6)
    np.testing.assert_array_equal(part.right["gen"], task.right["gen"][[3, 1]])
    assert part.texts == [task.texts[3], task.texts[1]]


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_top_keeps_the_order_of_equal_scores(count):
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.5, 0.5], np.float32)
    assert top(scores, count).tolist() == [1, 3, 2, 4, 5, 0][:count]


@pytest.mark.parametrize("eval_type", ["global", "local"])
def test_identical_candidates_tie_as_in_the_scores_of_the_run(eval_type):
    """A matrix-vector product alone gives copies scores that differ in the last bit."""
    task = task_with_copies(eval_type)
    for mode in ("disc", "gen"):
        np.testing.assert_array_equal(task.main(task.scores(mode)), task.right[mode])
    sampled = np.stack([task.queries["gen"]] * 3, axis=1)
    scored = [*task.scores("gen"), *task.scores("gen", sampled)]
    for row, scores in zip(task.candidate_rows() * 2, map(np.atleast_2d, scored), strict=True):
        for number in range(3):
            same = scores[:, row % 3 == number]
            np.testing.assert_array_equal(same, np.broadcast_to(same[:, :1], same.shape))


def task_with_copies(eval_type, queries=40, dimension=24):
    """38 candidates that repeat three vectors."""
    random = np.random.default_rng(5)
    names = [f"c{number}" for number in range(38)]
    own = [random.permutation(names).tolist() for _ in range(queries)]
    if eval_type == "global":
        own = [names] * queries
    infos = [
        {"cand_names": own[row], "label_name": names[int(random.integers(38))]}
        for row in range(queries)
    ]
    draw = {
        mode: random.standard_normal((queries + 3, dimension)).astype(np.float32)
        for mode in ("disc", "gen")
    }
    candidates = {mode: rows[queries + np.arange(38) % 3] for mode, rows in draw.items()}
    asked = {mode: np.ascontiguousarray(rows[:queries]) for mode, rows in draw.items()}
    right = {
        mode: score_vectors(infos, names, asked[mode], candidates[mode], eval_type).scores.values[
            "hit@1"
        ]
        for mode in draw
    }
    texts = [{"finish": "gen_emb", "reasoning": "", "summary": ""}] * queries
    where = {"name": "t", "modality": "image", "kind": None, "eval_type": eval_type}
    about = {"main_metric": "hit@1", "infos": infos, "names": names, "texts": texts}
    return EvaluatedTask(**where, **about, queries=asked, candidates=candidates, right=right)
