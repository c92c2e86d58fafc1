"""The paper's four insights on a run, and what routers and fusions make of the last two.

    from umer1.evaluation.insights.findings import insights
    found = insights(load_evaluated(load_run("runs/eval")))

1. gen against disc. 2. The oracle, which takes per query the better of the two, above both. 3. The
effect of RL (`rl_effect`). 4. pass@k: sampled again, a query finds a right candidate more often. And:
which share of the oracle's gain a router keeps, which share of pass@k's gain one fused ranking keeps,
how much a vector depends on its reasoning (`dependence`).

Every number is {"value", "low", "high"}, fractions of 1, with 95 % intervals over queries; columns
per query are returned too, so that a reader can look at single queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from umer1.evaluation.evaluated import EvaluatedTask
from umer1.evaluation.insights.dependence import EDITS
from umer1.evaluation.insights.fusion import BEST, FUSIONS, ONE, fused_columns, sizes
from umer1.evaluation.insights.oracle import oracle
from umer1.evaluation.insights.pass_at_k import estimate
from umer1.evaluation.insights.routing import ROUTERS, learned, task_signals, training_free
from umer1.evaluation.running.estimates import Estimates

Columns = dict[str, np.ndarray]


@dataclass(slots=True)
class Insights:
    """groups: group -> its tasks. content: what was found, for JSON. columns: task -> column ->
    float64 [N], the values per query behind it."""

    groups: dict[str, list[str]]
    content: dict
    columns: dict[str, Columns]


def insights(
    tasks: Sequence[EvaluatedTask],
    *,
    extra: Mapping[str, Columns] | None = None,
    edited: Mapping[str, Columns] | None = None,
) -> Insights:
    """Analyse a run's tasks.

    extra: more columns per task, from `rl_effect.before_columns`. edited: `dependence.
    edited_columns` per task, whose rows are fewer than the task's queries.
    """
    columns = {task.name: _columns(task) for task in tasks}
    for name, chosen in _routes(tasks, columns).items():
        columns[name] |= chosen
    for name, more in (extra or {}).items():
        columns[name] |= more
    sampled = [task.name for task in tasks if task.samples is not None]
    groups = _groups(tasks)
    estimates = Estimates(columns)
    content = {
        "queries": {task.name: len(task.infos) for task in tasks},
        "groups": groups,
        "modes": {group: _modes(estimates, members, columns) for group, members in groups.items()},
        "tasks": {name: _modes(estimates, [name], columns) for name in columns},
    }
    if len(sampled) == len(tasks):
        samples = min(task.samples.shape[1] for task in tasks)
        content["samples"] = {
            group: _sampling(estimates, members, samples) for group, members in groups.items()
        }
        for name, found in content["tasks"].items():
            found["pass_at_k"] = _pass_at_k(estimates, [name], samples)
    if edited:
        content["dependence"] = _dependence(edited, groups)
    return Insights(groups, content, columns)


def _columns(task):
    disc, gen = task.right["disc"], task.right["gen"]
    found = {
        "disc": disc,
        "gen": gen,
        "oracle": oracle(disc, gen),
        # the other way to use both: no choice, the sum of the two scores
        "sum": task.main(map(np.add, task.scores("disc"), task.scores("gen"))),
        "gen wins": (gen > disc).astype(np.float64),
        "disc wins": (disc > gen).astype(np.float64),
    }
    if task.samples is not None:
        found |= fused_columns(task) | _pass_columns(task)
    return found


def _pass_columns(task):
    """pass@k of each query, k = 1, 2, 4 …; hit@1, whatever the main metric."""
    asked = zip(task.infos, task.candidate_rows(), task.scores("gen", task.samples), strict=True)
    count, columns = task.samples.shape[1], {}
    found = [
        sum(task.is_right(info, rows[first]) for first in scores.argmax(axis=1))
        for info, rows, scores in asked
    ]
    for k in sizes(count):
        columns[f"pass@{k}"] = np.array([estimate(count, right, k) for right in found])
    return columns


def _routes(tasks, columns):
    """Task -> {"ROUTER": main metric, "reasons:ROUTER": 1 where gen is used}."""
    seen = {task.name: task_signals(task) for task in tasks}
    chosen = {name: training_free(own) for name, own in seen.items()}
    if len(tasks) > 1:
        gain = {name: own["gen"] - own["disc"] for name, own in columns.items()}
        for name, own in learned(seen, gain).items():
            chosen[name] |= own
    return {
        name: {
            column: value
            for router, use_gen in own.items()
            for column, value in (
                (router, np.where(use_gen, columns[name]["gen"], columns[name]["disc"])),
                (f"reasons:{router}", use_gen.astype(np.float64)),
            )
        }
        for name, own in chosen.items()
    }


def _groups(tasks):
    groups = {"overall": [task.name for task in tasks]}
    for kind in ("modality", "kind"):
        for task in tasks:
            if (group := getattr(task, kind)) is not None:
                groups.setdefault(group, []).append(task.name)
    return groups


def _modes(estimates, names, columns):
    """Disc, gen, oracle and routers over some tasks."""
    known = columns[names[0]]
    better = max(("gen", "disc"), key=lambda mode: estimates.mean(mode, names)["value"])
    found = {
        "disc": estimates.mean("disc", names),
        "gen": estimates.mean("gen", names),
        "oracle": estimates.mean("oracle", names),
        "gen_above_disc": estimates.of(lambda mean: mean["gen"] - mean["disc"], names),
        "gen_wins": estimates.mean("gen wins", names),
        "disc_wins": estimates.mean("disc wins", names),
        "better_mode": better,
        "oracle_above_better": estimates.of(lambda mean: mean["oracle"] - mean[better], names),
        "routers": {
            router: _router(estimates, names, router, better, known)
            for router in (*ROUTERS, "sum")
            if router in known
        },
    }
    if "before:gen" in known:
        found["rl"] = {
            mode: estimates.of(lambda mean, mode=mode: mean[mode] - mean[f"before:{mode}"], names)
            for mode in ("gen", "disc")
        }
    return found


def _router(estimates, names, router, better, known):
    reasons = f"reasons:{router}"
    return {
        "mean": estimates.mean(router, names),
        "above_better": estimates.of(lambda mean: mean[router] - mean[better], names),
        "share_of_oracle_gain": estimates.of(
            lambda mean: (mean[router] - mean[better]) / (mean["oracle"] - mean[better]), names
        ),
        "reasons": estimates.mean(reasons, names) if reasons in known else None,
    }


def _sampling(estimates, names, samples):
    """pass@k, and the fusions of n samples beside one sample, and beside the best of n."""
    ks, last = sizes(samples), f"pass@{samples}"
    return {
        "n": samples,
        "pass_at_k": _pass_at_k(estimates, names, samples),
        "pass_gain": estimates.of(lambda mean: mean[last] - mean["pass@1"], names),
        "greedy": estimates.mean("gen", names),
        "one_sample": estimates.mean(ONE, names),
        "best": {str(k): estimates.mean(f"{BEST}@{k}", names) for k in ks[1:]},
        "fusions": {
            rule: {str(k): _fusion(estimates, names, rule, k) for k in ks[1:]} for rule in FUSIONS
        },
    }


def _pass_at_k(estimates, names, samples):
    return {str(k): estimates.mean(f"pass@{k}", names) for k in sizes(samples)}


def _fusion(estimates, names, rule, count):
    fused, best = f"{rule}@{count}", f"{BEST}@{count}"
    return {
        "mean": estimates.mean(fused, names),
        "above_one": estimates.of(lambda mean: mean[fused] - mean[ONE], names),
        "share_of_best_gain": estimates.of(
            lambda mean: (mean[fused] - mean[ONE]) / (mean[best] - mean[ONE]), names
        ),
    }


def _dependence(edited, groups):
    """Group -> edit -> cosine, change of the main metric, share of first candidates kept."""
    known = {name: own for name, own in edited.items() if own}
    estimates = Estimates(known)
    found = {}
    for group, members in groups.items():
        names = [name for name in members if name in known]
        if not names:
            continue
        found[group] = {
            "queries": sum(len(known[name]["main:unedited"]) for name in names),
            "another_query": estimates.mean("cosine:another query", names),
            "as_generated": estimates.mean("cosine:as generated", names),
            "edits": {edit: _edit(estimates, names, edit) for edit in EDITS},
        }
    return found


def _edit(estimates, names, edit):
    return {
        "cosine": estimates.mean(f"cosine:{edit}", names),
        "main": estimates.mean(f"main:{edit}", names),
        "change": estimates.of(lambda mean: mean[f"main:{edit}"] - mean["main:unedited"], names),
        "first_kept": estimates.mean(f"top:{edit}", names),
    }
