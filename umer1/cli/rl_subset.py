"""umer1 data rl-subset"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption
from umer1.cli.pair_files import DataPathOption, LocalFolderOption, RegistryOption


def rl_subset(
    data: Annotated[
        str,
        typer.Argument(
            help="Pairs to choose from: VLM2Vec YAML, SFT records, RL rows, names with --registry."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The RL set: .json or .jsonl.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pairs to choose.")] = 11_000,
    seen: Annotated[
        list[str] | None,
        typer.Option(help="What SFT was trained on: its pairs are taken last; as often as needed."),
    ] = None,
    pass_rates: Annotated[
        Path | None,
        typer.Option(help='Harder pairs first: lines {"pair": 0, "right": 3, "samples": 8}.'),
    ] = None,
    drop_unsolved: Annotated[
        bool, typer.Option("--drop-unsolved", help="Leave out pairs that no sample solved.")
    ] = False,
    modalities: Annotated[
        str, typer.Option(help="Those with equal shares, of image, video, visdoc, text.")
    ] = "image,video,visdoc",
    visdoc: Annotated[
        str, typer.Option(help="Patterns of sources whose pictures are documents.")
    ] = "visrag*,*vidore*,*colpali*",
    data_path: DataPathOption = None,
    registry: RegistryOption = None,
    local_folder: LocalFolderOption = None,
    seed: Annotated[int, typer.Option(help="Equal seeds choose equal pairs.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Choose a balanced set of pairs for RL, preferring those that SFT has not seen.

    Images, videos and visual documents get equal shares, and so do the sources of
    each; what a small one cannot give goes to the others. Of a source the unseen
    pairs come first, of those the harder ones where --pass-rates tells. Pairs with
    several pictures on a side are left out: RL rows hold one. The counts are also
    in NAME.statistics.json.

    \b
    Examples:
      umer1 data rl-subset train_image.yaml -o rl.json --data-path /data \\
          --seen MMEB-train/v2/UME-R1-SFT.json
      umer1 data rl-subset pool.json -o rl.json -n 11000 --pass-rates rates.jsonl
      umer1 data check rl.json --data-path /data
    """
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.cli.pair_files import folders_by_name
    from umer1.data.rl_subset import build_rl_subset
    from umer1.data.sets import kind_of, open_set

    def opened(name, names_of_registry=None, root=None):
        kind = kind_of(name, names_of_registry)
        if kind == "benchmark":
            raise ValueError(f"{name}: is a benchmark, wants training pairs")
        folders = folders_by_name(local_folder)
        return open_set(name, kind, root=root, registry=names_of_registry, local_folders=folders)

    with stdout_to_stderr(json):
        told = build_rl_subset(
            opened(data, registry, data_path),
            output,
            root=data_path or Path(registry or data).parent,
            count=count,
            seen=[opened(name) for name in seen or ()],
            pass_rates=pass_rates,
            drop_unsolved=drop_unsolved,
            modalities=[name.strip() for name in modalities.split(",")],
            visdoc=[pattern.strip() for pattern in visdoc.split(",")],
            seed=seed,
            progress=not quiet,
        )
    if json:
        print_json(told)
    else:
        _show(told)
    note(f"{told['chosen']} of {told['pairs']} pairs are in {output}")


def _show(told):
    columns = ("modality", "source", "pairs", "unseen", "chosen", "chosen_seen")
    if any("pass_rate" in row for row in told["sources"]):
        columns += ("pass_rate", "chosen_pass_rate")
    rows = [columns, *([_cell(row[name]) for name in columns] for row in told["sources"])]
    widths = [max(len(str(row[place])) for row in rows) for place in range(len(columns))]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        typer.echo("  ".join(cells))
    shares = ", ".join(f"{name} {count}" for name, count in told["modalities"].items())
    typer.echo(f"\nchosen    {told['chosen']}: {shares}; {told['seen']} of them seen in SFT")
    for reason, count in told["excluded"].items():
        typer.echo(f"left out  {count} x {reason}")


def _cell(value):
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else value
