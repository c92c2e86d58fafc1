"""umer1 index"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption

app = typer.Typer(
    no_args_is_help=True,
    help="Keep vectors of a collection on disk and search them (with umer1 search).",
)

IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="Directory of the index.")]
ItemsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="ITEMS...",
        help="Directories, .jsonl and .parquet files, pictures, clips, texts, - for stdin.",
    ),
]
TokensOption = Annotated[int, typer.Option(help="Longest reasoning and summary.")]
BatchOption = Annotated[int, typer.Option(help="Items computed together; changes no vector.")]
ReplaceOption = Annotated[
    bool, typer.Option(help="Embed items anew whose ids are in the index, instead of passing over.")
]
BadItemsOption = Annotated[
    str,
    typer.Option(help='"stop" at media that cannot be used, or "skip" them: each is named.'),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command()
def build(
    index: IndexArgument,
    items: ItemsArgument,
    model: ModelOption = "tiny",
    mode: Annotated[str, typer.Option(help="Vectors to keep: disc, gen or both.")] = "both",
    kind: Annotated[
        str, typer.Option(help="flat (exact), hnsw, ivfpq, or auto: chosen by size.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="Stored as float32, float16 or int8.")] = "float32",
    dimension: Annotated[
        int | None, typer.Option(help="Keep so many first numbers of each vector.")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="Put before the text of items.")] = None,
    readout: Annotated[
        str, typer.Option(help='Disc vectors "at" their token, or "after" it.')
    ] = "at",
    max_new_tokens: TokensOption = 512,
    batch_size: BatchOption = 32,
    bad_items: BadItemsOption = "stop",
    device: DeviceOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Make an index of pictures, clips and texts, or go on with one that was stopped.

    What is finished is on the disk every few seconds; after a kill the same
    command goes on where it was.

    \b
    Examples:
      umer1 index build photos.index photos/
      umer1 index build docs.index docs.jsonl --mode disc --dtype float16
      umer1 index build web.index pages.parquet -m zhibinlan/UME-R1-2B --kind hnsw
    """
    from umer1.cli.indexing import add_items, create_or_continue
    from umer1.cli.items import read_items
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import stdout_to_stderr

    if mode not in ("disc", "gen", "both"):
        raise typer.BadParameter("need disc, gen or both", param_hint="--mode")
    ids, parsed = read_items(items, instruction=instruction)
    with stdout_to_stderr():
        embedder = load_embedder(model, device)
        found = create_or_continue(
            index,
            embedder,
            model=model_identity(model),
            modes=("disc", "gen") if mode == "both" else (mode,),
            readout=readout,
            kind=kind,
            dtype=dtype,
            dimension=dimension,
            instruction=instruction,
        )
        add_items(
            found, embedder, ids, parsed,
            max_new_tokens=max_new_tokens, batch_size=batch_size, bad_items=bad_items,
            show=not quiet,
        )  # fmt: skip
    _show(found, json)


@app.command()
def add(
    index: IndexArgument,
    items: ItemsArgument,
    model: ModelOption = "tiny",
    replace: ReplaceOption = False,
    max_new_tokens: TokensOption = 512,
    batch_size: BatchOption = 32,
    bad_items: BadItemsOption = "stop",
    device: DeviceOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Add items to an index, with its own modes, read-out and instruction.

    Items whose ids are in the index are passed over.
    """
    from umer1.cli.indexing import add_items
    from umer1.cli.items import read_items
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import stdout_to_stderr
    from umer1.retrieval import VectorIndex

    found = VectorIndex.open(index)
    found.check_model(model_identity(model))
    ids, parsed = read_items(items, instruction=found.manifest.instruction)
    with stdout_to_stderr():
        add_items(
            found, load_embedder(model, device), ids, parsed, replace=replace,
            max_new_tokens=max_new_tokens, batch_size=batch_size, bad_items=bad_items,
            show=not quiet,
        )  # fmt: skip
    _show(found, json)


@app.command()
def delete(
    index: IndexArgument,
    ids: Annotated[
        list[str], typer.Argument(metavar="IDS...", help="Ids, or - for one per line of stdin.")
    ],
    json: JsonOption = False,
) -> None:
    """Forget items by their ids."""
    import sys

    from umer1.cli.output import note
    from umer1.retrieval import VectorIndex

    found = VectorIndex.open(index)
    if ids == ["-"]:
        ids = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    gone = found.delete(list(dict.fromkeys(ids)))
    note(f"deleted {gone} of {len(set(ids))} ids")
    found.optimize()
    _show(found, json)


@app.command()
def info(index: IndexArgument, json: JsonOption = False) -> None:
    """What an index holds, of which model, and how it is searched."""
    from umer1.retrieval import VectorIndex

    _show(VectorIndex.open(index), json)


@app.command()
def export(
    index: IndexArgument,
    form: Annotated[str, typer.Argument(metavar="FORM", help="parquet, lancedb or qdrant.")],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DESTINATION",
            help="A .parquet file; a directory; for qdrant also a server's http(s) address.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Table or collection; default: the index's name.")
    ] = None,
) -> None:
    """Write an index for other programs.

    \b
    Examples:
      umer1 index export photos.index parquet photos.parquet
      umer1 index export photos.index lancedb lance/
      umer1 index export photos.index qdrant http://localhost:6333
    """
    from umer1.cli.output import note
    from umer1.retrieval import VectorIndex
    from umer1.retrieval.export import export_index

    found = VectorIndex.open(index)
    export_index(found, form, destination, name or index.resolve().stem)
    note(f"wrote {len(found)} items to {destination}")


def _show(found, json):
    from umer1.cli.output import print_json

    about = found.describe()
    if json:
        print_json(about)
        return
    for name, value in about.items():
        if name == "structures":
            value = ", ".join(
                f"{mode}: {own['kind']} over {own['rows']} rows" for mode, own in value.items()
            )
        if value not in (None, "", 0, False):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            typer.echo(f"{name.replace('_', ' '):14} {shown}")
