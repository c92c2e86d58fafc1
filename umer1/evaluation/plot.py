"""The report as a picture: grouped bars per task, and the pass@k curve."""

from pathlib import Path

from umer1.evaluation.plot_style import MODES, clean, color, new_figure, save
from umer1.evaluation.report import Report, group_title
from umer1.evaluation.table import report_columns, shown_k

CURVES = {"overall": "ink", "multi_step": "blue", "one_look": "slate"}
OTHERS = ("green", "purple", "teal", "red")


def save_plot(report: Report, path: Path) -> None:
    """Draw `report` to `path` (format by suffix: .png, .svg, .pdf)."""
    curve = bool(shown_k(report))
    width = max(6.0, 1.0 + 0.62 * len(report.tasks))
    figure = new_figure(width + 4.2 * curve, 4.4)
    grid = figure.add_gridspec(1, 1 + curve, width_ratios=[width, 4.2][: 1 + curve])
    _bars(figure.add_subplot(grid[0, 0]), report)
    if curve:
        _curve(figure.add_subplot(grid[0, 1]), report)
    save(figure, path)


def _bars(axes, report):
    columns = report_columns(report)
    others = [column for column in columns if column not in MODES]
    roles = MODES | dict(zip(others, OTHERS * len(others), strict=False))
    # by kind, then modality, so that the tasks which need reasoning stand together
    names = sorted(
        report.tasks, key=lambda name: (report.tasks[name].get("kind") or "") == "multi_step"
    )
    bar = 0.8 / len(columns)
    for number, column in enumerate(columns):
        heights = [100 * report.tasks[name]["main"].get(column, float("nan")) for name in names]
        places = [place + (number - (len(columns) - 1) / 2) * bar for place in range(len(names))]
        axes.bar(places, heights, width=bar, color=color(roles[column]), label=column)
    axes.set_xticks(
        range(len(names)), [name.replace("_", " ") for name in names], rotation=40, ha="right"
    )
    split = sum(report.tasks[name].get("kind") != "multi_step" for name in names)
    if 0 < split < len(names):
        axes.axvline(split - 0.5, color=color("muted"), linewidth=1, linestyle="--")
        for place, kind in (
            (split / 2 - 0.5, "one_look"),
            ((split + len(names)) / 2 - 0.5, "multi_step"),
        ):
            axes.text(
                place,
                103,
                group_title(kind),
                ha="center",
                va="bottom",
                fontsize=8,
                color=color("muted"),
            )
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("main metric, %")
    axes.legend(loc="upper left", ncols=len(columns), frameon=False, bbox_to_anchor=(0, 1.12))
    clean(axes)


def _curve(axes, report):
    groups = report.groups
    for group, role in CURVES.items():
        entries = groups.get(group, {}).get("pass_at_k") or {}
        if not entries:
            continue
        ks = sorted(map(int, entries))
        means = [100 * entries[str(k)]["mean"] for k in ks]
        axes.plot(
            ks,
            means,
            color=color(role),
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
    clean(axes)
