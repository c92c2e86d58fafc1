"""umer1 embed"""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.embed_ray import (
    BadItemsOption,
    RayAddressOption,
    ShardItemsOption,
    WorkerCpusOption,
    WorkerGpusOption,
    WorkersOption,
    embed_on_cluster,
    refuse_options,
)
from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption

ENGINES = ("native", "hf", "vllm", "sglang")  # with ":URL" for the last two


def embed(
    context: typer.Context,
    items: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts, pictures, videos, directories of them, .jsonl or .parquet files, - for stdin."
        ),
    ] = None,
    model: ModelOption = "tiny",
    mode: Annotated[str, typer.Option(help="disc, gen or both.")] = "both",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write vectors here: .npz, .jsonl, or a directory."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text, whatever it looks like.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", help="A picture: path or URL.")
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option("--video", help="A video: file, URL, or directory of frames."),
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Put before the text of every item.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Generations per item.")] = 1,
    temperature: Annotated[
        float, typer.Option(help="0 is greedy; several samples need more.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reasoning and summary.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    batch_size: Annotated[
        int, typer.Option(help="Items computed together; changes no vector.")
    ] = 32,
    readout: Annotated[
        str,
        typer.Option(
            help='Disc vectors "at" their token, or "after" it as the released evaluation.'
        ),
    ] = "at",
    device: DeviceOption = None,
    engine: Annotated[
        str,
        typer.Option(
            help='"native"; "vllm:URL" or "sglang:URL": servers that run the model; "ray": many '
            "workers, for very large collections."
        ),
    ] = "native",
    shard_items: ShardItemsOption = 1024,
    bad_items: BadItemsOption = "stop",
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    worker_gpus: WorkerGpusOption = None,
    ray_address: RayAddressOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Embed texts, pictures and videos; show what the model wrote.

    Each argument is one item. An item with several parts, or with an id, is a
    line of a .jsonl file: {"id": "a", "text": "how many?", "image": "cat.jpg"}
    Paths in a file are relative to the file.

    \b
    Examples:
      umer1 embed "a red bicycle" photo.jpg clip.mp4
      umer1 embed photos/ -o photos.npz --mode disc
      umer1 embed items.jsonl -o items.jsonl.npz --model zhibinlan/UME-R1-2B
      umer1 embed --video frames/ --instruction "Find a similar clip."
      umer1 embed "seven" --samples 4 --temperature 1 --json
      umer1 embed tables/ --engine ray -o vectors --mode disc

    .npz holds the arrays ids, disc, gen (a row per item, or samples x d) and the
    texts; .jsonl holds one object per item. A name without an ending is a
    directory of numbered .npz parts, in the order in which items finished.

    Results go to disk as they finish, in NAME.partial until all are there. The
    same command again goes on where a stopped or killed one was.

    With --engine ray the arguments are .jsonl and .parquet files, directories of
    those, or of pictures and videos, and the output is a directory of parquet
    files, one per --shard-items items.
    """
    from umer1.cli.items import read_items
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.cli.vectors import check_output, to_json

    options = {
        "mode": mode,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "n": samples,
        "seed": seed,
        "readout": readout,
    }
    if engine == "ray":
        if text or image or video or device:
            raise ValueError(
                "--text, --image, --video and --device are not for --engine ray, which wants "
                ".jsonl and .parquet files or directories (and --worker-gpus)"
            )
        from umer1.integrations.ray_embed import Cluster

        embed_on_cluster(
            items or [],
            output,
            model,
            options | {"batch_size": batch_size},
            Cluster(ray_address, workers, worker_cpus, worker_gpus),
            instruction=instruction,
            shard_items=shard_items,
            bad_items=bad_items,
            show=not quiet,
            json=json,
        )
        return
    if engine.partition(":")[0] not in ENGINES:
        raise ValueError(
            f"--engine: got {engine!r}, wants 'native', 'hf', 'vllm:URL', 'sglang:URL' or 'ray'"
        )
    refuse_options(context)
    if output is not None:
        check_output(output)
    ids, parsed = read_items(
        items or [],
        texts=text or [],
        images=image or [],
        videos=video or [],
        instruction=instruction,
    )
    identity = model_identity(model)
    compute = partial(
        _compute, lambda: load_embedder(model, device, engine), options, batch_size, show=not quiet
    )
    with stdout_to_stderr():
        if output is None:
            rows = _in_memory(compute, ids, parsed)
        else:
            rows = _on_disk(compute, ids, parsed, output, {"model": identity, **options})
            note(f"wrote {len(ids)} items to {output}")
    if json:
        listed = [to_json(row, vectors=output is None) for row in rows]
        print_json({"model": identity, "mode": mode, "readout": readout, "items": listed})
    else:
        _show(rows)


def _compute(load, options, batch_size, ids, items, places, show):
    """(place, row) of the items at `places`, as they finish."""
    from umer1.cli.vectors import to_rows
    from umer1.progress import progress_bar

    # numbered by their places among all items: the same samples whatever is there already
    results = load().stream(
        [items[place] for place in places], numbers=places, batch_size=batch_size, **options
    )
    started, written = time.monotonic(), 0
    with progress_bar("embed", len(places), unit="items", show=show) as bar:
        for number, result in results:
            written += sum(sum(_listed(tokens)) for tokens in result.tokens)
            spent = max(time.monotonic() - started, 1e-9)
            bar.advance(1, **({"tokens/s": round(written / spent)} if written else {}))
            place = places[number]
            yield place, to_rows([ids[place]], result)[0]


def _in_memory(compute, ids, items):
    rows = dict(compute(ids, items, range(len(ids))))
    return [rows[place] for place in range(len(ids))]


def _on_disk(compute, ids, items, output, settings):
    from umer1.cli.journal import Journal, describe_run
    from umer1.cli.output import note

    with Journal(output, describe_run(ids, items, **settings), ids) as journal:
        if journal.done:
            note(f"{output}: {len(journal.done)} of {len(ids)} items are there, going on")
        if journal.missing:
            for _, row in compute(ids, items, journal.missing):
                journal.add([row])
        return journal.finish()


def _show(rows):
    for row in rows:
        typer.echo(row["id"])
        # several samples come as lists; one is shown like a list of one
        reasoning, summary, finish = (
            _listed(row.get(key)) for key in ("reasoning", "summary", "finish")
        )
        for thought, word, ending in zip(reasoning, summary, finish, strict=True):
            typer.echo(f"  reasoning  {_one_line(thought)}")
            typer.echo(f"  summary    {_one_line(word)}")
            if ending != "gen_emb":
                typer.echo(
                    f"  no <gen_emb> was written (stopped by {ending}): the gen vector says little"
                )
    for name in ("disc", "gen"):
        if name in rows[0]:
            typer.echo(f"{name}: float32 {[len(rows), *rows[0][name].shape]}")


def _listed(value):
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _one_line(text):
    return " ".join(text.split())
