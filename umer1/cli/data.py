"""umer1 data mini | check"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption

app = typer.Typer(no_args_is_help=True, help="Make and check benchmark data.")


@app.command("mini")
def mini(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to make.")],
    seed: Annotated[int, typer.Option(help="Equal seeds give equal data.")] = 0,
    scale: Annotated[float, typer.Option(help="Multiplies the number of training pairs.")] = 1.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Make the miniature benchmark: 14 tasks from real digits, photographs, clips and pages.

    Everything comes from installed packages, nothing is downloaded. It has the
    formats of the real training data and of MMEB-V2, so the same commands read
    both. A finished directory with the same settings is kept.

    \b
    Examples:
      umer1 data mini --out data/mini
      umer1 data mini --out data/small --scale 0.3 --seed 1
    """
    from umer1.cli.output import print_json, stdout_to_stderr
    from umer1.data.mini import build

    with stdout_to_stderr(json):
        made = build(out, seed=seed, scale=scale, progress=not quiet)
    if json:
        print_json({"out": str(made), "seed": seed, "scale": scale})
    else:
        typer.echo(str(made))


@app.command("check")
def check(
    benchmark: Annotated[
        Path,
        typer.Argument(
            help="A directory with image.yaml, video.yaml, visdoc.yaml, or one such file."
        ),
    ],
    data_basedir: Annotated[
        Path | None,
        typer.Option(help="What paths in the YAML are below; its own directory by default."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a benchmark before any model runs: tables, rows, pictures, frames.

    Ends with status 1 when media are missing.

    \b
    Examples:
      umer1 data check data/mini
      umer1 data check image.yaml --data-basedir MMEB-V2 --json
    """
    from umer1.cli.output import print_json
    from umer1.evaluation import load_tasks
    from umer1.evaluation.datasets.media import missing_media

    rows = []
    for task in load_tasks(benchmark, data_basedir=data_basedir):
        gone, total = missing_media(task)
        numbers = {"queries": len(task.queries), "candidates": len(task.candidates)}
        media = {"media": total, "missing": len(gone), "example": gone[0] if gone else None}
        rows.append(
            {
                "task": task.name,
                "modality": task.modality,
                "scope": task.eval_type,
                **numbers,
                **media,
            }
        )
    missing = sum(row["missing"] for row in rows)
    if json:
        print_json({"tasks": rows, "missing": missing})
    else:
        _show(rows, missing)
    if missing:
        raise typer.Exit(1)


def _show(rows, missing):
    columns = ("task", "modality", "scope", "queries", "candidates", "media", "missing")
    widths = [
        max(len(str(row[column])) for row in [*rows, dict(zip(columns, columns))])
        for column in columns
    ]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        cells = [f"{row[column]!s:<{width}}" for column, width in zip(columns, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())
        if row.get("example"):
            typer.echo(f"  e.g. {row['example']}")
    typer.echo(
        f"{len(rows)} tasks, " + (f"{missing} media missing" if missing else "all media are there")
    )
