"""The report as a picture: grouped bars per task, and the pass@k curve."""

from pathlib import Path

from umer1.evaluation.report import Report, group_title
from umer1.evaluation.table import report_columns, shown_k

COLORS = {"disc": "#9aa7b5", "gen": "#2f6db5", "oracle": "#e0a030"}
OTHER_COLORS = ("#5aa06a", "#a35fa8")
CURVES = {"overall": "#222222", "multi_step": "#2f6db5", "one_look": "#9aa7b5"}


def save_plot(report: Report, path: Path) -> None:
    """Draw `report` to `path` (format by suffix: .png, .svg, .pdf)."""
    # a figure of its own: no pyplot state, no display, nothing left open in the caller's process
    from matplotlib.figure import Figure

    curve = bool(shown_k(report))
    width = max(6.0, 1.0 + 0.62 * len(report.tasks))
    figure = Figure(figsize=(width + 4.2 * curve, 4.4), layout="constrained")
    grid = figure.add_gridspec(1, 1 + curve, width_ratios=[width, 4.2][: 1 + curve])
    _bars(figure.add_subplot(grid[0, 0]), report)
    if curve:
        _curve(figure.add_subplot(grid[0, 1]), report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _bars(axes, report):
    columns = report_columns(report)
    colors = dict(COLORS) | dict(
        zip([c for c in columns if c not in COLORS], OTHER_COLORS * len(columns), strict=False)
    )
    # by kind, then modality, so that the tasks which need reasoning stand together
    names = sorted(
        report.tasks, key=lambda name: (report.tasks[name].get("kind") or "") == "multi_step"
    )
    bar = 0.8 / len(columns)
    for number, column in enumerate(columns):
        heights = [100 * report.tasks[name]["main"].get(column, float("nan")) for name in names]
        places = [place + (number - (len(columns) - 1) / 2) * bar for place in range(len(names))]
        axes.bar(places, heights, width=bar, color=colors[column], label=column)
    axes.set_xticks(
        range(len(names)), [name.replace("_", " ") for name in names], rotation=40, ha="right"
    )
    split = sum(report.tasks[name].get("kind") != "multi_step" for name in names)
    if 0 < split < len(names):
        axes.axvline(split - 0.5, color="#bbbbbb", linewidth=1, linestyle="--")
        for place, kind in (
            (split / 2 - 0.5, "one_look"),
            ((split + len(names)) / 2 - 0.5, "multi_step"),
        ):
            axes.text(
                place, 103, group_title(kind), ha="center", va="bottom", fontsize=9, color="#666666"
            )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("main metric, %")
    axes.legend(loc="upper left", ncols=len(columns), frameon=False, bbox_to_anchor=(0, 1.12))
    _clean(axes)


def _curve(axes, report):
    groups = report.groups
    for group, color in CURVES.items():
        entries = groups.get(group, {}).get("pass_at_k") or {}
        if not entries:
            continue
        ks = sorted(map(int, entries))
        means = [100 * entries[str(k)]["mean"] for k in ks]
        axes.plot(
            ks,
            means,
            color=color,
            linewidth=2,
            marker="o",
            markersize=3.5,
            label=group_title(group),
        )
    ticks = [2**power for power in range(ks[-1].bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set_ylim(0, 104)
    axes.set_xlabel("k sampled generations of the query")
    axes.set_ylabel("pass@k (hit@1), %")
    axes.legend(loc="lower right", frameon=False)
    _clean(axes)


def _clean(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
