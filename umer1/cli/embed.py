"""umer1 embed"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption


def embed(
    items: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts, pictures, videos, directories of pictures, .jsonl files, - for stdin."
        ),
    ] = None,
    model: ModelOption = "tiny",
    mode: Annotated[str, typer.Option(help="disc, gen or both.")] = "both",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write vectors here: .npz or .jsonl.")
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

    .npz holds the arrays ids, disc, gen (a row per item, or samples x d) and the
    texts; .jsonl holds one object per item.
    """
    from umer1.cli.items import read_items
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.cli.vectors import check_output, save, to_rows

    if output is not None:
        check_output(output)
    ids, parsed = read_items(
        items or [],
        texts=text or [],
        images=image or [],
        videos=video or [],
        instruction=instruction,
    )
    with stdout_to_stderr():
        result = load_embedder(model, device).encode(
            parsed,
            mode=mode,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            n=samples,
            seed=seed,
            batch_size=batch_size,
            progress=not quiet,
            readout=readout,
        )
    identity = model_identity(model)
    if output is not None:
        save(output, ids, result, model=identity, readout=readout)
        note(f"wrote {len(ids)} items to {output}")
    if json:
        rows = to_rows(ids, result, vectors=output is None)
        print_json({"model": identity, "mode": mode, "readout": readout, "items": rows})
    else:
        _show(to_rows(ids, result, vectors=False), result)


def _show(rows, result):
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
        if getattr(result, name) is not None:
            typer.echo(f"{name}: float32 {list(getattr(result, name).shape)}")


def _listed(value):
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _one_line(text):
    return " ".join(text.split())
