"""Disc or gen, query by query: routers that never see a label of the task they decide for.

Training-free: the mode whose score list looks surer (`score_shape`), one router per signal. Learned:
logistic regression on the signals of both lists, fitted on all other tasks (leave one task out), its
features, levels or differences of the signals, chosen by folds of those tasks; a second one sees the
disc list alone, so that it can decide before any reasoning is written. What a router is worth is its
share of what the oracle gains over always using the better mode. The idea of routing UME-R1 by the
structure of its scores is that of arXiv 2609.29560.
"""

from collections.abc import Mapping

import numpy as np

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.insights.score_shape import SIGNALS, signals

TRAINING_FREE = tuple(SIGNALS)
LEARNED = ("learned", "learned_before_reasoning")
ROUTERS = (*TRAINING_FREE, *LEARNED)
# what a learned router looks at; of the kinds for both lists the first where they do as well
DISC_LIST, BOTH_LISTS = "disc list", ("differences", "levels")
FOLDS = 5


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
    decided = {}
    for name in seen:
        others = [other for other in seen if other != name]
        features = max(BOTH_LISTS, key=lambda kind: _in_folds(seen, gain, others, kind))
        decided[name] = {
            "learned": _decide(seen, gain, others, name, features),
            "learned_before_reasoning": _decide(seen, gain, others, name, DISC_LIST),
        }
    return decided


def _in_folds(seen, gain, tasks, features):
    """Mean gain over disc of decisions made for some of the tasks with what the rest taught."""
    folds = [tasks[start::FOLDS] for start in range(min(FOLDS, len(tasks)))]
    gained = []
    for fold in folds:
        rest = [name for name in tasks if name not in fold]
        gained += [
            np.mean(gain[name] * _decide(seen, gain, rest, name, features)) for name in fold if rest
        ]
    return sum(gained)


def _decide(seen, gain, teachers, task, features):
    """Whether gen is used, bool [N]."""
    taught = np.concatenate([_features(seen[name], features) for name in teachers])
    gained = np.concatenate([gain[name] for name in teachers])
    # where both modes are equally right there is nothing to learn
    taught, gained = taught[gained != 0], gained[gained != 0]
    own = _features(seen[task], features)
    if len(set(gained > 0)) < 2:
        return np.full(len(own), bool(len(gained) == 0 or gained[0] > 0))
    model = _classifier()
    # weighed by what is at stake, the decision at 1/2 is that of the higher expected metric
    model.fit(taught, gained > 0, logisticregression__sample_weight=np.abs(gained))
    return model.predict(own)


def _classifier():
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError as error:
        wanted = "learned routers need scikit-learn: pip install 'umer1[eval]'"
        raise ModuleNotFoundError(wanted) from error
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _features(seen, kind):
    """[N, features]."""
    if kind == "differences":
        columns = [seen[f"gen_{name}"] - seen[f"disc_{name}"] for name in SIGNALS]
        return np.stack([*columns, seen["same_first"]], axis=1)
    modes = ("disc",) if kind == DISC_LIST else ("disc", "gen")
    names = [f"{mode}_{name}" for mode in modes for name in SIGNALS]
    names += ["log_candidates"] if kind == DISC_LIST else ["log_candidates", "same_first"]
    return np.stack([seen[name] for name in names], axis=1)
