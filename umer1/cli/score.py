"""umer1 eval score"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption


def score(
    directory: Annotated[
        Path, typer.Argument(help="A directory with NAME_qry, NAME_tgt and NAME_info.jsonl files.")
    ],
    tasks: Annotated[
        str | None, typer.Option(help="Only these tasks, separated by commas.")
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(help="YAML file or directory, for tasks that are not MMEB-V2's."),
    ] = None,
    ties: Annotated[
        str, typer.Option(help="Equal scores: stable, or upstream (numpy's default).")
    ] = "stable",
    pairing: Annotated[
        str, typer.Option(help="Grades and labels: correct, or upstream as VLM2Vec pairs them.")
    ] = "correct",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write score, prediction and report files here; a report that is there is added to.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda to multiply on a GPU; the CPU by default.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Score embeddings that are there, without a model: yours or anybody's.

    VLM2Vec's file names, UME-R1's with modes and this program's are understood,
    also in the folders image/, video/ and visdoc/. Pickles cannot run code. Where
    a score file lies beside the vectors, the largest difference to it is shown.

    \b
    Examples:
      umer1 eval score exps/VLM2Vec-V2.0
      umer1 eval score exps/ume-r1 --ties upstream --pairing upstream
      umer1 eval score runs/eval --tasks MSVD,VATEX --output rescored
      umer1 eval score runs/eval --ties upstream --output runs/eval   # in the run's own report
    """
    from umer1.cli.output import note, print_json
    from umer1.evaluation.scores.rescore import rescore
    from umer1.evaluation.scores.save_rescored import open_output, save_rescored

    if output is not None:
        open_output(output, directory)  # before the work: scores of other vectors are not mixed in
    names = tasks.split(",") if tasks else None
    options = {"ties": ties, "pairing": pairing, "device": device}
    results = []
    for one in rescore(directory, benchmark=benchmark, names=names, **options):
        results.append(one)
        if not json:
            note(f"{one.stored.name} {one.stored.column}: {one.metric} {100 * one.main:.2f}")
    report = None
    if output is not None:
        report = save_rescored(output, directory, results, {"ties": ties, "pairing": pairing})
    if json:
        print_json([one.to_dict() for one in results])
        return
    _print(results)
    if report is not None:
        note(f"scores, rankings and report.json are in {output}")


def _print(results):
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0)
    for title in ("task", "mode", "metric"):
        table.add_column(title, no_wrap=True)
    for title in ("score", "file", "largest difference", "upstream pairing", "tied"):
        table.add_column(title, justify="right")
    for one in results:
        row = one.to_dict()
        shown = [_percent(row[key]) for key in ("score", "theirs")]
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        last = [difference, _percent(row["upstream_pairing"]), str(row["tied_labels"])]
        table.add_row(row["task"], row["column"], row["metric"], *shown, *last)
    console = Console()
    console.print(table)
    for one in results:
        for sentence in one.scored.notes:
            console.print(f"[dim]{one.stored.name}: {sentence}[/dim]", highlight=False)


def _percent(value):
    return "-" if value is None else f"{100 * value:.2f}"
