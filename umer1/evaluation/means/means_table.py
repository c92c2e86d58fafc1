"""Means over MMEB-V2's groups of several sets of scores, side by side in a terminal."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umer1.evaluation.means.aggregate import listing
from umer1.evaluation.means.benchmark_groups import TITLES, benchmark_groups
from umer1.evaluation.means.submission import Submission, benchmark_means, printed_mean


def describe(submission: Submission) -> dict:
    """{"groups": group -> mean entry, "pages": revision of the page data, "notes": sentences}."""
    scores = submission.main_scores
    groups = benchmark_means(scores)
    notes = [
        f"{TITLES[group]}: mean over {entry['tasks']} of {len(benchmark_groups()[group])} tasks, "
        f"without {listing(entry['missing'])}"
        for group, entry in groups.items()
        if entry["missing"]
    ]
    if submission.uncounted:
        notes.append(f"in no mean: {listing(submission.uncounted)}")
    visdoc, printed = groups.get("visdoc"), printed_mean(scores)
    if visdoc and not visdoc["missing"]:
        notes.append(
            f"visual documents: {100 * visdoc['mean']:.2f} over 24 tasks; the released report "
            f"script prints {100 * printed['mean']:.2f}, over {printed['tasks']} tasks without "
            "the two page tasks"
        )
    if submission.pages == "plain name":
        notes.append(
            "the page tasks go by their plain names: measured on the data before November 2025, "
            "or named before the corrected data had names of their own"
        )
    return {"groups": groups, "pages": submission.pages, "notes": notes}


def print_means(described: Mapping[str, dict]) -> None:
    """A row per group, a column per set of scores, in percent; an asterisk on incomplete means."""
    described = _short(described)
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("mean of", no_wrap=True)
    table.add_column("tasks", justify="right", style="dim")
    for name in described:
        table.add_column(name, justify="right", overflow="fold")
    for group, title in TITLES.items():
        entries = [one["groups"].get(group) for one in described.values()]
        if any(entries):
            table.add_row(title, str(len(benchmark_groups()[group])), *map(_cell, entries))
        if group in ("overall", "image/out-of-domain", "video/MRET"):
            table.add_section()
    table.add_row("page data", "2", *(one["pages"] for one in described.values()))
    console = Console()
    console.print(table)
    for name, one in described.items():
        for sentence in one["notes"]:
            prefix = f"{name}: " if len(described) > 1 else ""
            console.print(f"[dim]{prefix}{sentence}[/dim]", highlight=False)


def _cell(entry):
    if entry is None:
        return "-"
    return f"{100 * entry['mean']:.2f}" + ("*" if entry["missing"] else "")


def _short(described):
    """File names instead of paths, where that leaves them apart."""
    names = [name.rsplit("/", 1)[-1].removesuffix(".json") for name in described]
    return (
        dict(zip(names, described.values(), strict=True))
        if len(set(names)) == len(names)
        else described
    )
