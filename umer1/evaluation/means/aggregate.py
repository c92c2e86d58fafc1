"""Means over tasks: per modality, per part of one, per kind and overall, each an unweighted mean.

As soon as a task of MMEB-V2 is among them, the groups are the benchmark's: a mean says how many of
the group's tasks it covers and which are missing, also those that were never run. No mean is taken
over a part in silence.
"""

from collections.abc import Iterable, Mapping, Sequence

from umer1.evaluation.means.benchmark_groups import TITLES, benchmark_groups, counted_tasks

KIND_TITLES = {"one_look": "one look is enough", "multi_step": "several steps needed"}
GROUP_TITLES = {**TITLES, **KIND_TITLES}
# names listed in a sentence; of more only the number is said
LISTED = 6


def aggregate(tasks: Mapping[str, dict]) -> dict[str, dict]:
    """Group -> {"tasks": names, "absent": names, "main": {column: mean entry}, "pass_at_k": {k:
    mean entry}}.

    tasks: task name -> its report entry (`modality`, `kind`, `group`, `main`, `pass_at_k`). "tasks"
    are those of the group that are in `tasks`, "absent" the benchmark's others. A mean entry is
    {"mean": float, "tasks": how many it covers, "missing": names of the group's tasks without that
    value, absent ones included}.
    """
    out = {}
    for group, names in _groups(tasks).items():
        present = [name for name in names if name in tasks]
        if present:
            absent = [name for name in names if name not in tasks]
            out[group] = {
                "tasks": present,
                "absent": absent,
                "main": _means(tasks, present, absent, "main"),
                "pass_at_k": _means(tasks, present, absent, "pass_at_k"),
            }
    return out


def mean_over(names: Sequence[str], values: Mapping[str, float]) -> dict:
    """Mean entry of a group: over those of `names` that have a value."""
    present = [values[name] for name in names if name in values]
    return {
        "mean": sum(present) / len(present) if present else None,
        "tasks": len(present),
        "missing": [name for name in names if name not in values],
    }


def uncounted(tasks: Iterable[str]) -> list[str]:
    """Names that are in no mean because they are not among the benchmark's 78 tasks."""
    names = list(tasks)
    counted = counted_tasks()
    if counted.isdisjoint(names):
        return []
    return [name for name in names if name not in counted]


def incomplete(groups: Mapping[str, dict]) -> Iterable[str]:
    """One sentence per mean that does not cover its whole group."""
    for group, content in groups.items():
        size = len(content["tasks"]) + len(content.get("absent", ()))
        for column, entry in content["main"].items():
            if entry["missing"]:
                yield (
                    f"{GROUP_TITLES.get(group, group)}, {column}: mean over {entry['tasks']} of "
                    f"{size} tasks, without {listing(entry['missing'])}"
                )


def listing(names: Sequence[str]) -> str:
    """Names as a phrase, cut when they are many."""
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def _groups(tasks):
    """Group -> names, the benchmark's where one of its tasks is there, else what the tasks say."""
    if counted_tasks().isdisjoint(tasks):
        groups = {group: [] for group in ("overall", "image", "video", "visdoc", *KIND_TITLES)}
        for name, entry in tasks.items():
            modality, group = entry["modality"], entry.get("group")
            for key in ("overall", modality, f"{modality}/{group}", entry.get("kind")):
                if key is not None and key != f"{modality}/None":
                    groups.setdefault(key, []).append(name)
        return groups
    groups = dict(benchmark_groups())
    for name, entry in tasks.items():
        if entry.get("kind") is not None:
            groups.setdefault(entry["kind"], []).append(name)
    return groups


def _means(tasks, present, absent, key):
    columns = dict.fromkeys(column for name in present for column in tasks[name].get(key) or {})
    out = {}
    for column in columns:
        values = {name: (tasks[name].get(key) or {}).get(column) for name in present}
        values = {name: value for name, value in values.items() if value is not None}
        out[column] = mean_over([*present, *absent], values)
    return out
