"""Disc or gen, query by query: routers that never see a label of the task they decide for.

Training-free: the mode whose score list looks surer (`score_shape`), one router per signal. Learned:
logistic regression on the signals of both lists, fitted on all other tasks (leave one task out); a
second one sees the disc list alone, so that it can decide before any reasoning is written. What a
router is worth is its share of what the oracle gains over always using the better mode. The idea of
routing UME-R1 by the structure of its scores is that of arXiv 2609.29560.
"""

from collections.abc import Mapping

import numpy as np

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.score_shape import SIGNALS, signals

TRAINING_FREE = tuple(SIGNALS)
LEARNED = ("learned", "learned_before_reasoning")
ROUTERS = (*TRAINING_FREE, *LEARNED)


def task_signals(task: EvaluatedTask) -> dict[str, np.ndarray]:
    """What routers may look at, float64 [N]: "disc_lead", "gen_lead" …, whether both lists have
    the same first candidate, and the logarithm of the lists' length.
    """
    lists = {mode: list(task.scores(mode)) for mode in ("disc", "gen")}
    found = {
        f"{mode}_{name}": values
        for mode, own in lists.items()
        for name, values in signals(own).items()
    }
    first = {
        mode: np.array([int(scores.argmax()) for scores in own]) for mode, own in lists.items()
    }
    found["same_first"] = (first["disc"] == first["gen"]).astype(np.float64)
    found["log_candidates"] = np.log([len(scores) for scores in lists["disc"]])
    return found


def training_free(seen: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Signal -> whether gen is used, bool [N]; gen where both look equally sure."""
    return {name: seen[f"gen_{name}"] >= seen[f"disc_{name}"] for name in TRAINING_FREE}


def learned(
    seen: Mapping[str, Mapping[str, np.ndarray]], gain: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Task -> router -> whether gen is used, bool [N], each task decided by what the others taught.

    seen: task -> `task_signals`. gain: task -> main metric of gen less that of disc, float64 [N];
    a task's own gain is not looked at for its decisions.

    Raises:
        ValueError: fewer than two tasks, so that none can be held out.
    """
    if len(seen) < 2:
        raise ValueError(f"tasks: got {len(seen)}, a learned router needs another to learn from")
    return {
        name: {
            "learned": _decide(seen, gain, name, alone=False),
            "learned_before_reasoning": _decide(seen, gain, name, alone=True),
        }
        for name in seen
    }


def _decide(seen, gain, held_out, alone):
    others = [name for name in seen if name != held_out]
    features = np.concatenate([_features(seen[name], alone) for name in others])
    gained = np.concatenate([gain[name] for name in others])
    # where both modes are equally right there is nothing to learn
    features, gained = features[gained != 0], gained[gained != 0]
    own = _features(seen[held_out], alone)
    if len(set(gained > 0)) < 2:
        return np.full(len(own), bool(len(gained) == 0 or gained[0] > 0))
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    # weighed by what is at stake, the decision at 1/2 is that of the higher expected metric
    model.fit(features, gained > 0, logisticregression__sample_weight=np.abs(gained))
    return model.predict(own)


def _features(seen, alone):
    """[N, features]: of the disc list alone, or of both."""
    modes = ("disc",) if alone else ("disc", "gen")
    names = [f"{mode}_{name}" for mode in modes for name in SIGNALS]
    names += ["log_candidates"] if alone else ["log_candidates", "same_first"]
    return np.stack([seen[name] for name in names], axis=1)
