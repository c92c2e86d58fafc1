"""The figures of a comparison: scores per task, pass@k, agreement of two columns, length and gain.

Each function takes a Comparison and returns a matplotlib Figure, or None where the runs hold
nothing to draw.
"""

import numpy as np

from umer1.evaluation.bootstrap import interval, resampled_means
from umer1.evaluation.insights.pass_at_k import estimate
from umer1.evaluation.pages.comparison import Comparison
from umer1.evaluation.plot_style import (
    MARKERS,
    clean,
    color,
    mode_color,
    new_figure,
    run_color,
)
from umer1.evaluation.report import group_title
from umer1.evaluation.runs import Run

WIDTH = 7.0
BINS = 8
LABEL = 30


def figures(comparison: Comparison, pair: tuple[str, str] | None) -> dict[str, tuple]:
    """name -> (caption, figure) of every figure there is something for."""
    names = " and which under ".join(comparison.column(key).label for key in pair or ())
    drawn = {
        "scores": (
            "Main metric per task with 95 % bootstrap intervals over its queries.",
            scores_figure(comparison),
        ),
        "pass_at_k": (
            "pass@k: mean over tasks of the chance that one of k sampled generations of the query "
            "ranks a right candidate first; bands are 95 % bootstrap intervals over queries.",
            pass_at_k_figure(comparison),
        ),
        "agreement": (
            f"Which queries are right at rank 1 under {names}.",
            agreement_figure(comparison, *pair) if pair else None,
        ),
        "length": (
            "Gain of gen over disc in the main metric, for queries of one length of reasoning, "
            "and per task.",
            length_figure(comparison),
        ),
    }
    return {name: content for name, content in drawn.items() if content[1] is not None}


def scores_figure(comparison: Comparison):
    """A dot and its interval per task and column."""
    names = _by_modality(comparison)
    figure = new_figure(WIDTH, 1.1 + (0.14 + 0.035 * len(comparison.columns)) * len(names))
    axes = figure.subplots()
    several = len(comparison.runs) > 1
    for place in range(1, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=color("band"), linewidth=0, zorder=0)
    offsets = np.linspace(-0.27, 0.27, len(comparison.columns)) * (len(comparison.columns) > 1)
    for column, offset in zip(comparison.columns, offsets, strict=True):
        shade = run_color(column.run) if several else mode_color(column.name)
        rows = [(place, comparison.tasks[name]) for place, name in enumerate(names)]
        found = [(place, comparison.estimate(row, column.key)) for place, row in rows]
        found = [(place + offset, one) for place, one in found if one is not None]
        for place, one in found:
            if one.low is not None:
                axes.plot([100 * one.low, 100 * one.high], [place, place], color=shade, linewidth=1)
        axes.plot(
            [100 * one.mean for _, one in found],
            [place for place, _ in found],
            MARKERS.get(column.name, "v"),
            color=shade,
            # a run's second mode is hollow
            markerfacecolor=shade if column.name != "disc" or not several else color("surface"),
            markersize=4,
            label=_short(column.label),
        )
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("main metric, %")
    legend = _legend_above(figure, axes)
    _split_modalities(axes, comparison, names)
    clean(axes, "x", legend)
    return figure


def pass_at_k_figure(comparison: Comparison):
    """Curves over k on a log axis: groups of one run, or all tasks of several."""
    curves = []
    for number, run in enumerate(comparison.runs):
        groups = run.report.groups
        several = len(comparison.runs) > 1
        for group in ("overall",) if several else _curve_groups(groups):
            entries = groups[group]["pass_at_k"]
            if entries:
                label = _short(comparison.labels[number]) if several else group_title(group)
                curves.append((label, entries, pass_at_k_band(run, groups[group]["tasks"])))
    if not curves:
        return None
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    most = 1
    for number, (label, entries, band) in enumerate(curves):
        ks = sorted(map(int, entries))
        most = max(most, ks[-1])
        means = [100 * entries[str(k)]["mean"] for k in ks]
        shade = run_color(number)
        axes.plot(ks, means, color=shade, linewidth=1.6, label=label)
        if band:
            edges = zip(*band.values(), strict=True)
            axes.fill_between(list(band), *edges, color=shade, alpha=0.13, linewidth=0)
        # markers at powers of two: a dot at each of 128 would be a smear
        dots = [(k, mean) for k, mean in zip(ks, means, strict=True) if k & (k - 1) == 0]
        axes.plot(*zip(*dots, strict=True), "o", color=shade, markersize=4)
    ticks = [2**power for power in range(most.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set_xlabel("k sampled generations of the query")
    axes.set_ylabel("pass@k, %")
    axes.legend(loc="lower right", frameon=False)
    clean(axes)
    return figure


def pass_at_k_band(run: Run, names: list[str]) -> dict[int, tuple[float, float]]:
    """k -> interval in percent of the mean over tasks, at powers of two; empty without the samples
    and candidates of all tasks.
    """
    draws = []
    for name in names:
        try:
            right = run.tasks[name].samples_right(run.settings.get("ties", "stable"))
        except ValueError:
            return {}
        if right is None:
            return {}
        most, found = right.shape[1], right.sum(axis=1)
        ks = [2**power for power in range(most.bit_length())]
        # by how many of a query's samples are right
        table = np.array([[estimate(most, count, k) for count in range(most + 1)] for k in ks])
        draws.append(100 * resampled_means(table[:, found], f"pass@k {name}"))
    return dict(zip(ks, map(interval, np.mean(draws, axis=0)), strict=True))


def agreement_figure(comparison: Comparison, first: str, second: str):
    """Stacked bars per task: right under both, only the first, only the second, neither."""
    shares = {}
    for name in _by_modality(comparison):
        row = comparison.tasks[name]
        # None where the two did not answer the same queries
        if comparison.outcome_kinds(row, first, second) is None:
            continue
        one, two = (row.hits[key] > 0 for key in (first, second))
        parts = (one & two, one & ~two, two & ~one, ~one & ~two)
        shares[name] = [100 * part.mean() for part in parts]
    if not shares:
        return None
    figure = new_figure(WIDTH, 1.1 + 0.24 * len(shares))
    axes = figure.subplots()
    labels = [_short(comparison.column(key).label) for key in (first, second)]
    titles = ("both right", f"only {labels[0]}", f"only {labels[1]}", "neither")
    left = np.zeros(len(shares))
    for number, (title, role) in enumerate(
        zip(titles, ("green", "amber", "blue", "grid"), strict=True)
    ):
        widths = np.array([part[number] for part in shares.values()])
        axes.barh(
            range(len(shares)), widths, left=left, height=0.72, color=color(role), label=title
        )
        left += widths
    axes.set_yticks(range(len(shares)), [_short(name) for name in shares])
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("queries, %")
    legend = _legend_above(figure, axes)
    _split_modalities(axes, comparison, list(shares))
    clean(axes, "x", legend)
    return figure


def length_figure(comparison: Comparison):
    """Left: gain by length of the query's reasoning, in bins of equally many queries. Right: means
    of tasks.
    """
    series = [_lengths(run, comparison, number) for number, run in enumerate(comparison.runs)]
    if not any(series):
        return None
    figure = new_figure(WIDTH, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    units = set()
    for number, tasks in enumerate(series):
        if not tasks:
            continue
        units |= {unit for unit, _, _ in tasks.values()}
        lengths = np.concatenate([length for _, length, _ in tasks.values()])
        gains = 100 * np.concatenate([gain for _, _, gain in tasks.values()])
        shade, label = run_color(number), _short(comparison.labels[number])
        for rows in _bins(lengths):
            mean = gains[rows].mean()
            means = resampled_means(gains[None, rows], f"length {label} {rows[0]}")[0]
            place = float(np.median(lengths[rows]))
            left.plot([place, place], interval(means), color=shade, linewidth=1)
            left.plot(place, mean, "o", color=shade, markersize=4)
        points = [(length.mean(), 100 * gain.mean()) for _, length, gain in tasks.values()]
        right.plot(*zip(*points, strict=True), "o", color=shade, markersize=4, label=label)
    for axes, title in ((left, "queries, in bins of equal size"), (right, "tasks")):
        axes.axhline(0, color=color("muted"), linewidth=0.8)
        axes.set_xlabel(f"reasoning of the query, {' or '.join(sorted(units))}")
        axes.set_title(title, loc="left", fontsize=9, color=color("ink"))
    left.set_ylabel("gen minus disc, points")
    if len(comparison.runs) > 1:
        right.legend(loc="best", frameon=False)
    for axes in (left, right):
        clean(axes)
    return figure


def _lengths(run, comparison, number):
    """task -> (unit, length [N], gain [N]) of the tasks of a run that have both modes and texts."""
    found = {}
    for name, task in run.tasks.items():
        row, keys = comparison.tasks[name], (f"{number}.disc", f"{number}.gen")
        texts = task.texts("qry") if all(key in row.values for key in keys) else None
        if not texts or len(texts) != len(row.values[keys[0]]):
            continue
        if all(isinstance(text.get("tokens"), int) for text in texts):
            unit, lengths = "tokens", [text["tokens"] for text in texts]
        else:
            unit, lengths = "characters", [len(text.get("reasoning") or "") for text in texts]
        gain = row.values[keys[1]] - row.values[keys[0]]
        found[name] = (unit, np.array(lengths, dtype=np.float64), gain)
    return found


def _bins(lengths):
    """Rows of queries in bins of equal size; queries of one length stay in one bin."""
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BINS + 1)[1:-1]))
    places = np.searchsorted(edges, lengths, side="left")
    return [np.flatnonzero(places == place) for place in np.unique(places)]


def _curve_groups(groups):
    kinds = [group for group in ("one_look", "multi_step") if group in groups]
    modalities = [group for group in ("image", "video", "visdoc") if group in groups]
    return ["overall", *(kinds or modalities)]


def _by_modality(comparison):
    order = list(dict.fromkeys(row.entry["modality"] for row in comparison.tasks.values()))
    return sorted(
        comparison.tasks, key=lambda name: order.index(comparison.tasks[name].entry["modality"])
    )


def _split_modalities(axes, comparison, names):
    kinds = [comparison.tasks[name].entry["modality"] for name in names]
    for place in range(1, len(names)):
        if kinds[place] != kinds[place - 1]:
            axes.axhline(place - 0.5, color=color("muted"), linewidth=0.6)


def _short(name):
    """A long name would leave no room for what it names; heads and tails tell names apart."""
    half = LABEL // 2
    return name if len(name) <= LABEL else f"{name[:half]}…{name[-half + 1 :]}"


def _legend_above(figure, axes):
    """In as many columns as its longest entry leaves room for."""
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.55 + 0.075 * max(map(len, labels))
    return figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=max(1, min(len(labels), int(WIDTH / inches))),
        frameon=False,
        borderpad=0,
    )
