"""umer1 search"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption


def search(
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERIES...",
            help="What to look for: texts, pictures, videos, .jsonl or .parquet files, - for stdin.",
        ),
    ],
    index: Annotated[
        Path | None, typer.Option("--index", "-x", help="An index of umer1 index build.")
    ] = None,
    items: Annotated[
        list[str] | None,
        typer.Option(
            "--items",
            help="What to search in, just this once: a directory, a .jsonl file, an item.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Results per query.")] = 5,
    model: ModelOption = "tiny",
    mode: Annotated[
        str | None,
        typer.Option(help="Items by their disc or gen vectors, or fused. Default: gen if there."),
    ] = None,
    query_mode: Annotated[
        str | None, typer.Option(help="Embed queries as disc or gen; default: as the items.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Put before the text of every query.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reasoning and summary.")] = 512,
    batch_size: Annotated[
        int, typer.Option(help="Items computed together; changes no vector.")
    ] = 32,
    readout: Annotated[
        str | None, typer.Option(help='Disc vectors "at" their token, or "after"; as the index.')
    ] = None,
    device: DeviceOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    json: JsonOption = False,
) -> None:
    """Find the nearest neighbours of texts, pictures and videos.

    Search in an index, or in items given here. An index remembers which model
    made it and is refused with another one. fused compares the mean of both
    cosines. Disc queries are fast; they find gen items only where the
    checkpoint was trained with both modes aligned.

    \b
    Examples:
      umer1 search "a red bicycle" --items photos/
      umer1 search query.jpg "at night" --index photos.index -k 3
      umer1 search "seven" --index digits.index --mode fused --json
    """
    from umer1.cli.indexing import add_items, create_or_continue
    from umer1.cli.items import read_items
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import print_json, stdout_to_stderr
    from umer1.retrieval import VectorIndex

    if mode not in (None, "disc", "gen", "fused"):
        raise typer.BadParameter("need disc, gen or fused", param_hint="--mode")
    if query_mode not in (None, "disc", "gen") or (query_mode and mode == "fused"):
        raise typer.BadParameter("need disc or gen, and no fused mode", param_hint="--query-mode")
    if (index is None) == (not items):
        raise typer.BadParameter("give one of --index and --items")
    # everything that can be wrong with the input, before the model is loaded
    query_ids, query_items = read_items(queries, instruction=instruction)
    identity = model_identity(model)
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    with stdout_to_stderr(), tempfile.TemporaryDirectory() as temporary:
        if index is not None:
            found = VectorIndex.open(index)
            found.check_model(identity, readout)
            mode = mode or ("gen" if "gen" in found.modes else "disc")
            embedder = load_embedder(model, device)
        else:
            ids, parsed = read_items(items)
            embedder = load_embedder(model, device)
            mode = mode or "gen"
            found = create_or_continue(
                Path(temporary) / "items",
                embedder,
                model=identity,
                modes=("disc", "gen") if mode == "fused" else (mode,),
                readout=readout or "at",
                dimension=None,
            )
            add_items(found, embedder, ids, parsed, show=not quiet, **options)
        embed_as = query_mode or ("both" if mode == "fused" else mode)
        results = _search(
            found, embedder, query_ids, query_items, k, mode,
            mode_of_queries=embed_as, progress=not quiet, **options,
        )  # fmt: skip
    if json:
        print_json({"model": identity, "mode": mode, "items": len(found), "queries": results})
    else:
        _show(results)


def _search(found, embedder, ids, items, k, mode, *, mode_of_queries, **options):
    out = embedder.encode(items, mode=mode_of_queries, readout=found.manifest.readout, **options)
    given = {"disc": out.disc, "gen": out.gen}
    vectors = {name: array for name, array in given.items() if array is not None}
    results = []
    for number, (identity, hits) in enumerate(
        zip(ids, found.search(vectors, k, mode), strict=True)
    ):
        row = {"query": identity}
        if out.summary:
            row |= {"reasoning": out.reasoning[number], "summary": out.summary[number]}
        row["results"] = [{**hit.entry, "id": hit.id, "score": hit.score} for hit in hits]
        results.append(row)
    return results


def _show(results):
    for row in results:
        typer.echo(row["query"] + _in_brackets(row))
        for place, hit in enumerate(row["results"], start=1):
            typer.echo(f"  {place}  {hit['score']:.4f}  {hit['id']}{_in_brackets(hit)}")


def _in_brackets(row):
    summary = " ".join(str(row.get("summary") or "").split())
    return f"  ({summary})" if summary else ""
