"""umer1 eval report"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Output directories of evaluations, one or several.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Where the pages go; a folder report in the first run if not given.",
        ),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            help="What to call the runs, separated by commas; their folders' names if not."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(help="The two columns compared first, such as disc,gen or sft gen,rl gen."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The benchmark, for pictures, where it is not where the run found it."),
    ] = None,
    queries: Annotated[
        int, typer.Option(help="Most queries listed one by one, over all tasks.")
    ] = 1500,
    pictures: Annotated[int, typer.Option(help="Most pictures in the page.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Also save the plot of a single run: .png, .svg or .pdf.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Report on evaluations that were run before, side by side.

    Writes report.html, one file that opens anywhere: scores per task and group
    with bootstrap intervals, plots, published results, and every query with its
    pictures, reasoning, the right candidate and what was ranked first. Beside it
    report.md and the plots. --json prints the numbers and writes pages only with
    --output.

    \b
    Examples:
      umer1 eval report runs/eval
      umer1 eval report runs/sft runs/rl --names sft,rl -o runs/sft-rl
      umer1 eval report runs/eval --json | jq .groups.overall.main
    """
    from umer1.cli.output import note, print_json
    from umer1.evaluation.pages import write_report
    from umer1.evaluation.pages.comparison import compare as compare_runs
    from umer1.evaluation.pages.comparison import find_pair
    from umer1.evaluation.pages.view import to_dict
    from umer1.evaluation.runs import load_run

    if plot is not None and len(runs) > 1:
        raise ValueError(f"--plot: draws one run, got {len(runs)}; the pages have their own plots")
    labels = names.split(",") if names else None
    comparison = compare_runs([load_run(run) for run in runs], labels, seed=seed)
    pair = find_pair(comparison, compare)
    written = {}
    if output is not None or not json:
        folder = output or comparison.runs[0].directory / "report"
        written = write_report(
            comparison, folder, pair=pair, data=data, queries=queries, pictures=pictures
        )
    first = comparison.runs[0].report
    if plot is not None:
        first.plot(plot)
    if json:
        print_json(first.to_dict() if len(runs) == 1 else to_dict(comparison, pair))
        return
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        if len(runs) > 1:
            print(label)
        run.report.print()
    for path in (written["html"], written["markdown"], plot):
        if path is not None:
            note(f"wrote {path}")
