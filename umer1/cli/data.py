"""umer1 data mini | check | annotate | rl-subset | pass-rates"""

import math
from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.annotate import annotate
from umer1.cli.output import JsonOption
from umer1.cli.pair_files import DataPathOption, LocalFolderOption, RegistryOption
from umer1.cli.pass_rates import pass_rates
from umer1.cli.rl_subset import rl_subset

app = typer.Typer(
    no_args_is_help=True,
    help="Make the miniature benchmark; check training and benchmark data; make training data.",
)
app.command("annotate")(annotate)
app.command("rl-subset")(rl_subset)
app.command("pass-rates")(pass_rates)


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

    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"--scale: got {scale}, wants a finite number above 0")
    with stdout_to_stderr(json):
        made = build(out, seed=seed, scale=scale, progress=not quiet)
    if json:
        print_json({"out": str(made), "seed": seed, "scale": scale})
    else:
        typer.echo(str(made))


@app.command("check")
def check(
    data: Annotated[
        str,
        typer.Argument(
            help="Training data (an SFT or RL JSON or JSONL file, an RL or VLM2Vec YAML file, names "
            "with --registry), or a benchmark (a directory with image.yaml, video.yaml, visdoc.yaml, "
            "or one such file)."
        ),
    ],
    data_path: DataPathOption = None,
    registry: RegistryOption = None,
    local_folder: LocalFolderOption = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every picture and frame too.")
    ] = False,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens of a side, as a training's max_length; estimated without --model.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Encode every side as training this model does: decodes, counts exactly."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0 for one per core, at most 16.")
    ] = 0,
    data_basedir: Annotated[
        Path | None,
        typer.Option(help="Benchmark: what paths in the YAML are below; its own directory."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Check training data or a benchmark before any model runs.

    Training data: every record's format, every medium's existence, counts,
    lengths, the responses' format, repeated targets, hard negatives included;
    examples of each problem with its record number. A benchmark: tables, rows, pictures, frames.
    Ends with status 1 when anything is wrong.

    \b
    Examples:
      umer1 data check MMEB-train/v2/UME-R1-SFT.json --data-path MMEB-train
      umer1 data check rl.yaml --data-path MMEB-train --decode
      umer1 data check sft.json --max-length 12288 --model Qwen/Qwen2-VL-2B-Instruct
      umer1 data check "mine,other%20" --registry registry.yaml --limit 10000
      umer1 data check data/mini
    """
    from umer1.cli.output import stdout_to_stderr
    from umer1.cli.pair_files import folders_by_name
    from umer1.data.sets import kind_of, open_set

    kind = kind_of(data, registry)
    if kind == "benchmark":
        _check_benchmark(Path(data), data_basedir, json)
        return
    folders = folders_by_name(local_folder)
    with stdout_to_stderr(json):
        store = open_set(data, kind, root=data_path, registry=registry, local_folders=folders)
    checks = {"decode": decode, "max_length": max_length, "model": model}
    _check_training(store, {"data": data, "kind": kind}, checks, limit, workers, not quiet, json)


def _check_training(store, told, checks, limit, workers, progress, as_json):
    import os

    from umer1.cli.output import print_json
    from umer1.data.check import check_pairs
    from umer1.data.check_report import lines, summary

    workers = workers or min(os.cpu_count() or 1, 16)
    report = check_pairs(store, limit=limit, workers=workers, progress=progress, **checks)
    decoded = checks["decode"] or bool(checks["model"])
    content = told | {"decoded": decoded} | summary(report, store)
    if as_json:
        print_json(content)
    else:
        for line in lines(content):
            typer.echo(line)
    if content["problems"]:
        raise typer.Exit(1)


def _check_benchmark(benchmark, data_basedir, json):
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
