"""Routers on tasks whose best decision is known, and that nothing of the held-out task is seen."""

import numpy as np
import pytest

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.insights.routing import learned, task_signals, training_free
from umer1.evaluation.insights.score_shape import SIGNALS


def made_up(seed, queries=200):
    """Signals and gains of a task where gen is better exactly where its list leads by more."""
    random = np.random.default_rng(seed)
    seen = {
        f"{mode}_{name}": random.uniform(0, 1, queries)
        for mode in ("disc", "gen")
        for name in SIGNALS
    }
    seen["same_first"], seen["log_candidates"] = np.zeros(queries), np.full(queries, 2.0)
    return seen, np.where(seen["gen_lead"] > seen["disc_lead"], 1.0, -1.0)


@pytest.fixture
def tasks():
    made = {f"task{seed}": made_up(seed) for seed in range(4)}
    return {name: seen for name, (seen, _) in made.items()}, {
        name: gain for name, (_, gain) in made.items()
    }


def test_training_free_takes_the_surer_mode_and_gen_when_equal():
    seen = {
        f"{mode}_{name}": np.array([0.5, 0.5, 0.5]) for mode in ("disc", "gen") for name in SIGNALS
    }
    seen["gen_lead"] = np.array([0.4, 0.5, 0.6])
    assert training_free(seen)["lead"].tolist() == [False, True, True]


def test_learned_finds_what_decides(tasks):
    seen, gain = tasks
    decided = learned(seen, gain)
    for name in seen:
        right = decided[name]["learned"] == (gain[name] > 0)
        assert right.mean() > 0.9, (name, right.mean())
        # the disc list alone tells less, but it tells something
        assert 0.6 < (decided[name]["learned_before_reasoning"] == (gain[name] > 0)).mean() < 0.95


def test_a_task_never_teaches_itself(tasks):
    seen, gain = tasks
    before = learned(seen, gain)["task2"]
    after = learned(seen, {**gain, "task2": -gain["task2"]})
    for router, chosen in before.items():
        np.testing.assert_array_equal(after["task2"][router], chosen)
    # the others do notice
    assert any((after["task0"][r] != learned(seen, gain)["task0"][r]).any() for r in before)


def test_queries_without_a_difference_teach_nothing(tasks):
    seen, gain = tasks
    padded_seen, padded_gain = {}, {}
    for name in seen:
        padded_seen[name] = {
            key: np.concatenate([v, np.full(30, 9.0)]) for key, v in seen[name].items()
        }
        padded_gain[name] = np.concatenate([gain[name], np.zeros(30)])
    decided, padded = learned(seen, gain), learned(padded_seen, padded_gain)
    for name in seen:
        np.testing.assert_array_equal(padded[name]["learned"][:200], decided[name]["learned"])


def test_one_mode_that_always_wins_is_always_taken(tasks):
    seen, gain = tasks
    for sign in (1.0, -1.0):
        decided = learned(seen, {name: sign * np.abs(values) for name, values in gain.items()})
        assert all((own["learned"] == (sign > 0)).all() for own in decided.values())
    silent = learned(seen, {name: 0 * values for name, values in gain.items()})
    assert all(own["learned"].all() for own in silent.values())


def test_one_task_alone_cannot_be_held_out(tasks):
    seen, gain = tasks
    with pytest.raises(ValueError, match="tasks: got 1, a learned router needs another"):
        learned({"task0": seen["task0"]}, {"task0": gain["task0"]})


def test_signals_of_a_task_are_those_of_its_lists():
    eye = np.eye(4, dtype=np.float32)
    task = EvaluatedTask(
        name="t", modality="image", kind=None, eval_type="local", main_metric="hit@1",
        infos=[{"cand_names": ["a", "b"], "label_name": "a"}, {"cand_names": ["c", "d", "a"], "label_name": "c"}],
        names=["a", "b", "c", "d"],
        queries={"disc": eye[[0, 2]], "gen": eye[[1, 2]]},
        candidates={"disc": eye, "gen": eye},
        right={}, texts=[],
    )  # fmt: skip
    found = task_signals(task)
    np.testing.assert_array_equal(found["same_first"], [0.0, 1.0])
    np.testing.assert_allclose(found["log_candidates"], np.log([2, 3]))
    # lists [1, 0] and [1, 0, 0]
    np.testing.assert_allclose(found["disc_lead"], [2.0, 1 / np.std([1, 0, 0])])
