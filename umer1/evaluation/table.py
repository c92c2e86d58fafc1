"""The report as a table for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from umer1.evaluation.report import Report, group_title

SHOWN_K = (1, 4, 16, 64, 128)
KINDS = {"one_look": "one", "multi_step": "many"}


def build_table(report: Report) -> Table:
    """One row per task, then one per group mean; scores in percent, an asterisk on means that miss
    tasks.

    It fits 80 columns with three modes and pass@1, 4, 16.
    """
    columns, shown = report_columns(report), shown_k(report)
    title = "main metric in percent; steps: how many the task needs"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("task", no_wrap=True)
    table.add_column("steps", style="dim", no_wrap=True)
    table.add_column("metric", style="dim", no_wrap=True)
    for column in [*columns, *(f"pass@{k}" for k in shown)]:
        style = "bold" if column == "gen" else None
        table.add_column(column, justify="right", style=style, no_wrap=True)
    order = list(dict.fromkeys(entry["modality"] for entry in report.tasks.values()))
    tasks = sorted(report.tasks.items(), key=lambda pair: order.index(pair[1]["modality"]))
    for number, (name, entry) in enumerate(tasks):
        if number and entry["modality"] != tasks[number - 1][1]["modality"]:
            table.add_section()
        values = [entry["main"].get(column) for column in columns]
        values += [(entry.get("pass_at_k") or {}).get(str(k)) for k in shown]
        metric = entry["main_metric"].replace("ndcg_linear", "ndcg")
        table.add_row(name, KINDS.get(entry.get("kind"), ""), metric, *map(_percent, values))
    table.add_section()
    for group, content in report.groups.items():
        values = [content["main"].get(column) for column in columns]
        values += [content["pass_at_k"].get(str(k)) for k in shown]
        absent = len(content["absent"])
        whole = f"/{len(content['tasks']) + absent}" if absent else ""
        size = f"{len(content['tasks'])}{whole} tasks"
        table.add_row(group_title(group), "", size, *map(_mean_cell, values))
    return table


def report_columns(report: Report) -> list[str]:
    """Columns of `main` over all tasks: the modes, the oracle last."""
    found = dict.fromkeys(column for entry in report.tasks.values() for column in entry["main"])
    return [column for column in found if column != "oracle"] + ["oracle"] * ("oracle" in found)


def shown_k(report: Report) -> list[int]:
    """The k whose pass@k is a column."""
    most = max((len(entry.get("pass_at_k") or {}) for entry in report.tasks.values()), default=0)
    return [k for k in SHOWN_K if k <= most]


def _percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def _mean_cell(entry):
    if entry is None:
        return "-"
    return _percent(entry["mean"]) + ("*" if entry["missing"] else "")
