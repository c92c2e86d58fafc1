"""What reinforcement learning changed: the same queries before and after, or models of several seeds.

Two evaluations of one benchmark give a paired difference with an interval over queries. Trained
several times, the interval is over the seeds: Student's t of the differences, each of them between
the RL model and the SFT model it began from.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from umer1.evaluation.bootstrap import LEVEL
from umer1.evaluation.evaluated import EvaluatedTask

COLUMNS = ("gen", "disc")


def before_columns(
    before: Sequence[EvaluatedTask], after: Sequence[EvaluatedTask]
) -> dict[str, dict[str, np.ndarray]]:
    """Task -> {"before:gen", "before:disc"}: main metric of the earlier model, in `after`'s order.

    Raises:
        ValueError: the two did not evaluate the same queries.
    """
    earlier = {task.name: task for task in before}
    columns = {}
    for task in after:
        if task.name not in earlier:
            raise ValueError(f"before: has no task {task.name}; wants the tasks of the other run")
        if earlier[task.name].infos != task.infos:
            raise ValueError(f"before: {task.name} was evaluated on other queries or candidates")
        columns[task.name] = {f"before:{mode}": earlier[task.name].right[mode] for mode in COLUMNS}
    return columns


def effect_over_seeds(seeds: Mapping[str, Mapping], groups: Sequence[str]) -> dict:
    """Group -> column -> {value, low, high, lowest, highest, seeds}: RL less SFT, fractions of 1.

    seeds: seed -> {"sft": {"groups": {group: {column: mean}}}, "rl": …}, as `bench.tiny_model`
    writes it.

    Raises:
        ValueError: fewer than two seeds, of which no interval can be had.
    """
    if len(seeds) < 2:
        raise ValueError(f"seeds: got {len(seeds)}, an interval needs at least 2")
    return {
        group: {
            column: _over_seeds(
                [
                    run["rl"]["groups"][group][column] - run["sft"]["groups"][group][column]
                    for run in seeds.values()
                ]
            )
            for column in COLUMNS
        }
        for group in groups
    }


def _over_seeds(differences):
    from scipy.stats import t

    values = np.array(differences)
    count = len(values)
    half = t.ppf((1 + LEVEL) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return {
        "value": float(values.mean()),
        "low": float(values.mean() - half),
        "high": float(values.mean() + half),
        "lowest": float(values.min()),
        "highest": float(values.max()),
        "seeds": count,
    }
