"""A profile as tables for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umer1.profiling.profile import Profile, Row

MOST_ROWS, LEAST_SHARE = 20, 0.005


def show(profile: Profile, console: Console) -> None:
    console.print(f"[bold]{profile.request.title}[/]  {profile.request.shape()}", highlight=False)
    for line in (*profile.about, _machine(profile), _times(profile)):
        console.print(line, highlight=False, markup=False)
    console.print(stage_table(profile))
    console.print(operator_table(profile))
    for line in notes(profile):
        console.print(line, highlight=False, markup=False)


def stage_table(profile: Profile) -> Table:
    """What each stage takes, without the stages inside it."""
    work = "kernels, ms" if profile.request.device == "cuda" else "operators, ms"
    table = Table("stage", box=SIMPLE_HEAD, padding=(0, 1))
    for name in ("host, ms", work, "share"):
        table.add_column(name, justify="right")
    for stage, (own, host) in profile.stages.items():
        share = own / profile.operator_seconds if profile.operator_seconds else 0.0
        table.add_row(stage, *map(_number, (1e3 * host, 1e3 * own)), f"{100 * share:.1f}%")
    return table


def operator_table(profile: Profile) -> Table:
    """The longest operators; the rest in one line."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    kind = "kernel or operator" if profile.request.device == "cuda" else "operator"
    table.add_column(kind, no_wrap=True, overflow="ellipsis", max_width=46)
    table.add_column("stage", style="dim", no_wrap=True)
    for name in ("calls", "ms", "share", "GFLOP", "MB", "GFLOP/s", "GB/s", "% roof"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound", style="dim", no_wrap=True)
    shown = [row for row in profile.rows if profile.share(row) >= LEAST_SHARE][:MOST_ROWS]
    for row in shown:
        table.add_row(row.operator, row.stage, *_cells(profile, row), row.bound or "-")
    rest = profile.rows[len(shown) :]
    if rest:
        seconds = sum(row.seconds for row in rest)
        share = seconds / profile.operator_seconds
        cells = (_number(sum(row.calls for row in rest)), _number(1e3 * seconds), f"{100 * share:.1f}%")  # fmt: skip
        table.add_row(f"{len(rest)} others", "", *cells, style="dim")
    return table


def notes(profile: Profile) -> list[str]:
    """What a reader of the table has to know."""
    lines = []
    missing = list(dict.fromkeys(profile.without_model()))
    if missing:
        lines.append(f"no model of bytes and FLOPs: {', '.join(missing)}")
    if any((row.percent_of_roofline or 0) > 100 for row in profile.rows[:MOST_ROWS]):
        lines.append(
            "above 100 %: the data was in a cache, and the roof is memory's; or the machine was busier "
            "while the roofs were measured"
        )
    return lines


def _machine(profile: Profile) -> str:
    rates = ", ".join(
        f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in profile.roofs.flop_rate.items()
    )
    return (
        f"{profile.hardware}, torch {profile.versions['torch']}; roofs measured here: {rates}, "
        f"memory {profile.roofs.bandwidth / 1e9:,.1f} GB/s"
    )


def _times(profile: Profile) -> str:
    work = profile.operator_seconds
    text = f"one call: {_number(1e3 * profile.seconds)} ms; traced: {_number(1e3 * profile.traced_seconds)} ms, of which "
    if profile.request.device == "cuda":
        busy = 100 * work / profile.seconds if profile.seconds else 0.0
        return (
            text + f"kernels {_number(1e3 * work)} ms ({busy:.0f} % of a call without the profiler)"
        )
    outside = max(0.0, profile.traced_seconds - work)
    return (
        text
        + f"operators {_number(1e3 * work)} ms, Python and autograd {_number(1e3 * outside)} ms"
    )


def _cells(profile: Profile, row: Row) -> tuple[str, ...]:
    seconds = row.seconds
    return (
        _number(row.calls),
        _number(1e3 * seconds),
        f"{100 * profile.share(row):.1f}%",
        _number(row.flop / 1e9 if row.flop else None),
        _number(row.bytes / 1e6 if row.bytes else None),
        _number(row.flop / seconds / 1e9 if row.flop else None),
        _number(row.bytes / seconds / 1e9 if row.bytes else None),
        "-" if row.percent_of_roofline is None else f"{row.percent_of_roofline:.0f}",
    )


def _number(value: float | None) -> str:
    """Three digits, thousands in full."""
    if value is None:
        return "-"
    if value == 0 or value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
