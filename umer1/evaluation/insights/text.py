"""Insights as Markdown: tables and the sentences between them, in percent and points."""

from collections.abc import Mapping

from umer1.evaluation.insights.dependence import EDITS
from umer1.evaluation.report import group_title

ROUTER_TITLES = {
    "lead": "training-free: lead of the first candidate",
    "prominence": "training-free: first candidate above the mean",
    "step": "training-free: first above the next five",
    "certainty": "training-free: entropy",
    "learned": "learned on the other tasks, both lists",
    "learned_before_reasoning": "learned on the other tasks, disc list alone",
    "sum": "no choice: disc and gen scores added",
}
FUSION_TITLES = {
    "mean_vector": "mean vector",
    "medoid": "medoid",
    "majority": "majority of first candidates",
    "self_consistency": "self-consistency (mean softmax)",
    "same_summary": "mean of the most frequent summary's samples",
    "surest": "best of n by lead",
}
EDIT_TITLES = {
    "unedited": "unedited",
    "no_reasoning": "reasoning dropped",
    "shuffled": "reasoning's tokens shuffled",
    "swapped": "another query's reasoning",
    "other_summary": "another query's summary",
    "all_swapped": "another query's reasoning and summary",
    "nothing": "reasoning and summary dropped",
}


def insights_text(content: Mapping) -> str:
    """Markdown of `Insights.content`; parts that were not measured are named at the end."""
    parts = [_modes(content), _routers(content), _rl(content)]
    parts += [_sampling(content), _dependence(content), _tasks(content)]
    missing = [
        what
        for what, key in (
            ("pass@k and fusions (the run has no samples)", "samples"),
            ("dependence on the reasoning (no benchmark and model given)", "dependence"),
        )
        if key not in content
    ]
    if "rl" not in content["modes"]["overall"] and "rl_over_seeds" not in content:
        missing.insert(0, "the effect of RL (no run before RL given)")
    if missing:
        parts.append(f"Not measured: {'; '.join(missing)}.")
    return "\n\n".join(part for part in parts if part)


def _modes(content):
    rows = [
        (
            f"{group_title(group)} ({len(content['groups'][group])} tasks)",
            *(interval(found[column]) for column in ("disc", "gen", "oracle")),
            interval(found["gen_above_disc"], signed=True),
            f"{interval(found['oracle_above_better'], signed=True)} ({found['better_mode']})",
        )
        for group, found in content["modes"].items()
    ]
    overall = content["modes"]["overall"]
    header = ("", "disc", "gen", "oracle", "gen less disc", "oracle less the better mode")
    return (
        f"**Gen against disc, and their oracle.** Gen ranks better than disc for "
        f"{interval(overall['gen_wins'])} % of the queries, disc better than gen for "
        f"{interval(overall['disc_wins'])} %.\n\n{table(header, rows)}"
    )


def _routers(content):
    overall = content["modes"]["overall"]
    rows = [
        (
            ROUTER_TITLES[router],
            interval(found["mean"]),
            interval(found["above_better"], signed=True),
            interval(found["share_of_oracle_gain"], digits=0),
            interval(found["reasons"], digits=0),
        )
        for router, found in overall["routers"].items()
    ]
    header = (
        "router",
        "score",
        f"above always {overall['better_mode']}",
        "share of the oracle's gain, %",
        "queries given to gen, %",
    )
    return f"**Routers between disc and gen**, all tasks.\n\n{table(header, rows)}"


def _rl(content):
    lines = []
    for group, found in content["modes"].items():
        if group in ("overall", "multi_step") and "rl" in found:
            effects = ", ".join(
                f"{mode} {interval(found['rl'][mode], signed=True)}" for mode in ("gen", "disc")
            )
            lines.append(f"{group_title(group)}: {effects}")
    for group, found in content.get("rl_over_seeds", {}).items():
        effects = ", ".join(
            f"{mode} {interval(effect, signed=True)} (seeds from {100 * effect['lowest']:+.1f} to "
            f"{100 * effect['highest']:+.1f})"
            for mode, effect in found.items()
        )
        lines.append(f"{group_title(group)}, {found['gen']['seeds']} seeds: {effects}")
    return f"**Effect of RL**, after less before. {'; '.join(lines)}." if lines else ""


def _sampling(content):
    if "samples" not in content:
        return ""
    overall = content["samples"]["overall"]
    ks, count = list(overall["pass_at_k"]), overall["n"]
    curves = [
        (group_title(group), *(interval(found["pass_at_k"][k]) for k in ks))
        for group, found in content["samples"].items()
        if group in ("overall", "one_look", "multi_step")
    ]
    shown = [k for k in ("4", str(count)) if k in overall["best"]]
    rows = [
        (title, *_cells(overall["fusions"][rule], shown)) for rule, title in FUSION_TITLES.items()
    ]
    header = ["fusion", *(f"n = {k}: score (share of the best of n's gain, %)" for k in shown)]
    bounds = ", ".join(f"{interval(overall['best'][k])} the best of {k}" for k in shown)
    return (
        f"**pass@k**, {count} samples of each query, hit@1; "
        f"pass@{count} less pass@1: {interval(overall['pass_gain'], signed=True)}.\n\n"
        f"{table(('', *(f'k = {k}' for k in ks)), curves)}\n\n"
        f"**One ranking from n samples**, all tasks, main metric: one sample "
        f"{interval(overall['one_sample'])}, greedy {interval(overall['greedy'])}, {bounds} by the "
        f"labels.\n\n{table(header, rows)}"
    )


def _cells(found, shown):
    return [
        f"{interval(found[k]['mean'])} ({interval(found[k]['share_of_best_gain'], digits=0)})"
        for k in shown
    ]


def _dependence(content):
    if not content.get("dependence"):
        return ""
    shown = [group for group in ("overall", "multi_step") if group in content["dependence"]]
    rows = []
    for edit in EDITS[1:]:
        cells = [EDIT_TITLES[edit]]
        for group in shown:
            found = content["dependence"][group]["edits"][edit]
            cells += [
                interval(found["cosine"], scale=1, digits=2),
                interval(found["change"], signed=True),
            ]
        rows.append(cells)
    header = [""]
    for group in shown:
        header += [f"cosine, {group_title(group)}", "score"]
    overall = content["dependence"]["overall"]
    return (
        f"**Dependence on the reasoning**: {overall['queries']} queries, their response given back "
        f"edited. Unedited, the cosine with the vector as generated is "
        f"{overall['as_generated']['value']:.4f}; two queries' vectors have "
        f"{interval(overall['another_query'], scale=1, digits=2)}.\n\n{table(header, rows)}"
    )


def _tasks(content):
    """A row per task, without the intervals, which are in the JSON."""
    routers = [name for name in ("certainty", "learned") if name in _any_task(content)["routers"]]
    ks = list(_any_task(content).get("pass_at_k", {}))
    ks = ks if len(ks) < 3 else [ks[0], ks[-1]]
    rows = [
        (
            name,
            *(_percent(found[column]) for column in ("disc", "gen", "oracle")),
            *(_percent(found["routers"][router]["mean"]) for router in routers),
            *(_percent(found["pass_at_k"][k]) for k in ks),
        )
        for name, found in content["tasks"].items()
    ]
    titles = {"certainty": "entropy router", "learned": "learned router"}
    header = ["task", "disc", "gen", "oracle", *map(titles.get, routers)]
    return f"**Per task**\n\n{table([*header, *(f'pass@{k}' for k in ks)], rows)}"


def _any_task(content):
    return next(iter(content["tasks"].values()))


def _percent(found):
    return f"{100 * found['value']:.1f}"


def interval(found: Mapping | None, *, scale=100, digits=1, signed=False) -> str:
    """ "88.9 [86.6, 91.1]"; a dash for what cannot be said."""
    if found is None:
        return "–"
    sign = "+" if signed else ""
    value, low, high = (
        f"{scale * found[key]:{sign}.{digits}f}" for key in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def table(header, rows) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
