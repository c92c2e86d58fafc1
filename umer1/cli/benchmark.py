"""umer1 eval check | prepare"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption

BenchmarkArgument = Annotated[
    str,
    typer.Argument(
        help="A directory with image.yaml, video.yaml, visdoc.yaml; one such file; or mmeb-v2, "
        "mmeb-v2:ume-r1, mmeb-v2:qwen3-vl-embedding (that project's directory layout)."
    ),
]
TasksOption = Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")]
BasedirOption = Annotated[
    Path | None,
    typer.Option(help="What paths in the YAML are below; its own directory by default."),
]
HubMapOption = Annotated[
    Path | None,
    typer.Option(
        help="Where tables are that the YAML names by hub repository: a directory of "
        "repositories, or a map (.yaml, .json, VLM2Vec's dataset_hflocal_path.py). "
        "Default: below the data directory."
    ),
]
PageDataOption = Annotated[
    str,
    typer.Option(help="ViDoSeek-page, MMLongBench-page: fixed, or original (before 2025-11)."),
]
PromptsOption = Annotated[
    str,
    typer.Option(help="Instructions where they differ: ume-r1, vlm2vec or qwen3-vl-embedding."),
]


def check(
    benchmark: BenchmarkArgument,
    tasks: TasksOption = None,
    data_basedir: BasedirOption = None,
    hub_map: HubMapOption = None,
    page_data: PageDataOption = "fixed",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Say what a benchmark lacks before any model runs: tables, rows, pictures, frames.

    Every task is opened by the loader that an evaluation uses. Ends with status 1
    if something is missing or a count is not the published one.

    \b
    Examples:
      umer1 eval check data/mini
      umer1 eval check mmeb-v2 --data-basedir MMEB-V2 --hub-map tables
      umer1 eval check image.yaml --data-basedir MMEB-V2 --json | jq '.tasks[].problems'
    """
    from umer1.cli.output import print_json
    from umer1.evaluation.check import check_benchmark

    found = check_benchmark(
        benchmark,
        data_basedir=data_basedir,
        names=tasks.split(",") if tasks else None,
        hub_map=hub_map,
        page_data=page_data,
        progress=not quiet,
    )
    if json:
        print_json(found.to_dict())
    else:
        typer.echo("\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(1)


def prepare(
    benchmark: BenchmarkArgument,
    tasks: TasksOption = None,
    data_basedir: BasedirOption = None,
    hub_map: HubMapOption = None,
    page_data: PageDataOption = "fixed",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the pictures that a benchmark lacks and its tables or videos hold.

    Page pictures come from the corpus tables, frames from video files: what the
    released loaders write on their first run. What is there stays.

    \b
    Examples:
      umer1 eval prepare mmeb-v2 --data-basedir MMEB-V2 --tasks ViDoRe_arxivqa,MSVD
    """
    from umer1.cli.output import print_json
    from umer1.evaluation.prepare import prepare

    written = prepare(
        benchmark,
        data_basedir=data_basedir,
        names=tasks.split(",") if tasks else None,
        hub_map=hub_map,
        page_data=page_data,
        progress=not quiet,
    )
    if json:
        print_json(written)
        return
    for name, counts in written.items():
        if any(counts.values()):
            typer.echo(f"{name}: {counts['pages']} pages, frames of {counts['videos']} videos")
    pages, videos = (sum(counts[key] for counts in written.values()) for key in ("pages", "videos"))
    typer.echo(f"{len(written)} tasks: wrote {pages} pages and the frames of {videos} videos")
