"""Means over tasks: per modality, per kind and overall, each an unweighted mean over its tasks.

A mean says how many tasks it covers and which are missing; it is never taken over a part in
silence.
"""

from collections.abc import Iterable, Mapping

GROUP_TITLES = {
    "overall": "all tasks",
    "image": "image",
    "video": "video",
    "visdoc": "visual documents",
    "one_look": "one look is enough",
    "multi_step": "several steps needed",
}


def aggregate(tasks: Mapping[str, dict]) -> dict[str, dict]:
    """Group -> {"tasks": names, "main": {column: mean entry}, "pass_at_k": {k: mean entry}}.

    tasks: task name -> its report entry (`modality`, `kind`, `main`, `pass_at_k`). A mean entry is
    {"mean": float, "tasks": how many it covers, "missing": names of the group's tasks without that
    value}.
    """
    members = {group: [] for group in GROUP_TITLES}
    for name, entry in tasks.items():
        for group in ("overall", entry["modality"], entry.get("kind")):
            if group is not None:
                members.setdefault(group, []).append(name)
    return {group: _group(tasks, names) for group, names in members.items() if names}


def _group(tasks, names):
    return {
        "tasks": names,
        "main": _means(tasks, names, "main"),
        "pass_at_k": _means(tasks, names, "pass_at_k"),
    }


def _means(tasks, names, key):
    columns = dict.fromkeys(column for name in names for column in tasks[name].get(key) or {})
    return {
        column: _mean({name: (tasks[name].get(key) or {}).get(column) for name in names})
        for column in columns
    }


def _mean(values: Mapping[str, float | None]) -> dict:
    present = [value for value in values.values() if value is not None]
    return {
        "mean": sum(present) / len(present),
        "tasks": len(present),
        "missing": [name for name, value in values.items() if value is None],
    }


def incomplete(groups: Mapping[str, dict]) -> Iterable[str]:
    """One sentence per mean that does not cover its whole group."""
    for group, content in groups.items():
        for column, entry in content["main"].items():
            if entry["missing"]:
                yield (
                    f"{GROUP_TITLES.get(group, group)}, {column}: mean over {entry['tasks']} of "
                    f"{len(content['tasks'])} tasks, without {', '.join(entry['missing'])}"
                )
