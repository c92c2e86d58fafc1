"""umer1 search"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption


def search(
    queries: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to look for: texts, pictures, videos, .jsonl files, - for stdin."
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", "-x", help="An index made with --save.")
    ] = None,
    items: Annotated[
        list[str] | None,
        typer.Option(
            "--items", help="What to search in: a directory of pictures, a .jsonl file, an item."
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep the index of --items in this directory.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Results per query.")] = 5,
    model: ModelOption = "tiny",
    mode: Annotated[str, typer.Option(help="Compare disc or gen vectors.")] = "gen",
    instruction: Annotated[
        str | None, typer.Option(help="Put before the text of every query.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reasoning and summary.")] = 512,
    batch_size: Annotated[
        int, typer.Option(help="Items computed together; changes no vector.")
    ] = 32,
    readout: Annotated[
        str, typer.Option(help='Disc vectors "at" their token, or "after" it.')
    ] = "at",
    device: DeviceOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    json: JsonOption = False,
) -> None:
    """Find the nearest neighbours of texts, pictures and videos.

    Search in items given here, or in an index kept from before. An index
    remembers which model made it and is refused with another one. Without a
    query, --save only builds.

    \b
    Examples:
      umer1 search "a red bicycle" --items photos/
      umer1 search --items photos/ --save photos.index
      umer1 search query.jpg "at night" --index photos.index -k 3
      umer1 search "seven" --index digits.index --mode disc --json
    """
    from umer1.cli.items import read_items
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.retrieval import Index

    if mode not in ("disc", "gen"):
        raise typer.BadParameter("need disc or gen", param_hint="--mode")
    if (index is None) == (not items):
        raise typer.BadParameter("give one of --index and --items")
    if not queries and save is None:
        raise typer.BadParameter("give something to look for, or --save to only build an index")
    if save is not None and index is not None:
        raise typer.BadParameter("--save goes with --items")
    # everything that can be wrong with the input, before the model is loaded
    query_ids, query_items = read_items(queries, instruction=instruction) if queries else ([], [])
    identity = model_identity(model)
    options = {
        "mode": mode,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "progress": not quiet,
        "readout": readout,
    }
    if index is not None:
        found = Index.load(index)
        _check_origin(found, index, identity, mode, readout)
    else:
        ids, parsed = read_items(items)
    with stdout_to_stderr():
        embedder = load_embedder(model, device)
        if index is None:
            found = _build(Index, embedder, ids, parsed, identity, options)
        if save is not None:
            found.save(save)
            note(f"wrote an index of {len(found)} items to {save}")
        results = _search(found, embedder, query_ids, query_items, k, options) if queries else []
    if json:
        print_json({"model": identity, "mode": mode, "items": len(found), "queries": results})
    else:
        _show(results)


def _build(index_class, embedder, ids, items, identity, options):
    out = embedder.encode(items, **options)
    entries = [{"summary": summary} for summary in out.summary]
    vectors = {options["mode"]: getattr(out, options["mode"])}
    return index_class.build(
        ids, vectors, model=identity, readout=options["readout"], entries=entries
    )


def _check_origin(found, path, identity, mode, readout):
    if found.model != identity:
        raise ValueError(
            f"{path} was made with {found.model}, the model here is {identity}: build it again"
        )
    if mode == "disc" and found.readout != readout:
        raise ValueError(
            f"{path} holds disc vectors read {found.readout!r} their token, "
            f"--readout is {readout!r}"
        )


def _search(found, embedder, ids, items, k, options):
    out = embedder.encode(items, **options)
    neighbours, scores = found.search(getattr(out, options["mode"]), k, mode=options["mode"])
    results = []
    for number, identity in enumerate(ids):
        row = {"query": identity}
        if out.summary:
            row |= {"reasoning": out.reasoning[number], "summary": out.summary[number]}
        row["results"] = [
            {"id": name, "score": float(score), **found.entry(name)}
            for name, score in zip(neighbours[number], scores[number], strict=True)
        ]
        results.append(row)
    return results


def _show(results):
    for row in results:
        typer.echo(row["query"] + _in_brackets(row))
        for place, hit in enumerate(row["results"], start=1):
            typer.echo(f"  {place}  {hit['score']:.4f}  {hit['id']}{_in_brackets(hit)}")


def _in_brackets(row):
    summary = " ".join((row.get("summary") or "").split())
    return f"  ({summary})" if summary else ""
