"""The report as a table for a terminal."""

from rich.table import Table

from .report import Report, group_title

SHOWN_K = (1, 2, 4, 8, 16, 32, 64, 128)


def build_table(report: Report) -> Table:
    """One row per task, then one per group mean; scores in percent, an asterisk on means that miss tasks."""
    columns = report_columns(report)
    shown = shown_k(report)
    table = Table(title="main metric, %", title_justify="left", header_style="bold")
    table.add_column("task")
    table.add_column("kind", style="dim")
    table.add_column("metric", style="dim")
    for column in [*columns, *(f"pass@{k}" for k in shown)]:
        table.add_column(column, justify="right", style="bold" if column == "gen" else None)
    last_modality = None
    for name, entry in sorted(report.tasks.items(), key=lambda pair: _order(report, pair[0])):
        if last_modality not in (None, entry["modality"]):
            table.add_section()
        last_modality = entry["modality"]
        values = [entry["main"].get(column) for column in columns]
        values += [(entry.get("pass_at_k") or {}).get(str(k)) for k in shown]
        kind = (entry.get("kind") or "").replace("_", " ")
        table.add_row(name, kind, entry["main_metric"], *map(_percent, values))
    table.add_section()
    for group, content in report.groups.items():
        values = [content["main"].get(column) for column in columns]
        values += [content["pass_at_k"].get(str(k)) for k in shown]
        cells = [_mean_cell(entry) for entry in values]
        table.add_row(group_title(group), f"{len(content['tasks'])} tasks", "mean", *cells)
    return table


def report_columns(report: Report) -> list[str]:
    """Columns of `main` over all tasks: the modes, the oracle last."""
    found = dict.fromkeys(column for entry in report.tasks.values() for column in entry["main"])
    return [column for column in found if column != "oracle"] + ["oracle"] * ("oracle" in found)


def shown_k(report: Report) -> list[int]:
    """The k at which pass@k is shown: powers of two up to the number of samples."""
    most = max((len(entry.get("pass_at_k") or {}) for entry in report.tasks.values()), default=0)
    return [k for k in SHOWN_K if k <= most]


def _order(report, name):
    modalities = list(dict.fromkeys(entry["modality"] for entry in report.tasks.values()))
    return modalities.index(report.tasks[name]["modality"])


def _percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def _mean_cell(entry):
    if entry is None:
        return "-"
    return _percent(entry["mean"]) + ("*" if entry["missing"] else "")
