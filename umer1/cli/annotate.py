"""umer1 data annotate"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption
from umer1.cli.pair_files import DataPathOption, LocalFolderOption, RegistryOption


def annotate(
    data: Annotated[
        str,
        typer.Argument(
            help="Pairs: RL rows (JSON, JSONL, YAML), a VLM2Vec YAML, SFT records, or names with "
            "--registry."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; the same to go on."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="OpenAI-compatible, up to /v1.")
    ] = "http://localhost:8000/v1",
    model: Annotated[
        str, typer.Option("--model", "-m", help="The teacher, as the endpoint calls it.")
    ] = "zai-org/GLM-4.1V-9B-Thinking",
    prompts: Annotated[
        Path | None, typer.Option(help="YAML with other prompts; --show-prompts prints ours.")
    ] = None,
    show_prompts: Annotated[
        bool,
        typer.Option(
            "--show-prompts", help="Print the prompts file and the first request; ask nothing."
        ),
    ] = False,
    data_path: DataPathOption = None,
    registry: RegistryOption = None,
    local_folder: LocalFolderOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Most requests at once.")] = 32,
    attempts: Annotated[
        int, typer.Option(min=1, help="Of one question before it is given up.")
    ] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds for one whole answer.")] = 600.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, reasoning included.")
    ] = 9216,
    temperature: Annotated[
        float | None, typer.Option(help="The server's own setting for the model by default.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="As --temperature.")] = None,
    extra_body: Annotated[
        str | None, typer.Option(help="More of the request as JSON: '{\"top_k\": 2}'.")
    ] = None,
    image_pixels: Annotated[
        int, typer.Option(help="Larger pictures are sent smaller.")
    ] = 2_359_296,
    frame_pixels: Annotated[int, typer.Option(help="The same for frames.")] = 768 * 28 * 28,
    frames: Annotated[int, typer.Option(min=1, help="Most frames of a video.")] = 8,
    box: Annotated[
        str, typer.Option(help="GLM's box markers: strip, or keep as the released data does.")
    ] = "strip",
    max_reasoning_tokens: Annotated[
        int, typer.Option(min=1, help="Longer reasoning is dropped.")
    ] = 8192,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Counts them: a tokenizer.json or a model directory; else the server's numbers."
        ),
    ] = None,
    repeat_identical: Annotated[
        bool,
        typer.Option(
            "--repeat-identical", help="Ask equal sides each for itself; else one answer is shared."
        ),
    ] = False,
    price_in: Annotated[float | None, typer.Option(help="Of a million tokens sent.")] = None,
    price_out: Annotated[float | None, typer.Option(help="Of a million tokens written.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Have a thinking model write reasoning and a summary for both sides of pairs.

    The endpoint may be vLLM, SGLang, a router or a hosted one; the key is taken
    from OPENAI_API_KEY. Answers are kept as they come: a run that was killed goes
    on with the same command, and other filters ask nothing again. The folder gets
    sft.jsonl (to train on), dropped.jsonl and statistics.json. Ends with status 1
    when a side got no answer; the same command asks those again.

    \b
    Examples:
      vllm serve zai-org/GLM-4.1V-9B-Thinking --port 8000
      umer1 data annotate rl.json -o annotated --data-path MMEB-train --limit 20
      umer1 data annotate rl.json -o annotated --data-path MMEB-train \\
          --endpoint http://gpu1:8000/v1 --concurrency 128
      umer1 data annotate train_image.yaml -o annotated --data-path /data \\
          --endpoint https://api.example.com/v1 --price-in 0.035 --price-out 0.138
      umer1 data check annotated/sft.jsonl --data-path MMEB-train
    """
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.cli.pair_files import folders_by_name
    from umer1.data import annotation
    from umer1.data.annotation.statistics import lines
    from umer1.data.sets import kind_of, open_set

    options = annotation.Options(
        url=endpoint,
        sampling=annotation.Sampling(
            model, max_tokens, temperature, top_p, _json_object(extra_body, "--extra-body")
        ),
        prompts=annotation.Prompts.load(prompts),
        filters=annotation.Filters(max_reasoning_tokens, box),
        media=annotation.SentMedia(image_pixels, frame_pixels, frames),
        retries=annotation.Retries(attempts),
        concurrency=concurrency,
        timeout=timeout,
        repeat_identical=repeat_identical,
        price_in=price_in,
        price_out=price_out,
        tokenizer=tokenizer,
    )
    if output is None and not show_prompts:
        raise ValueError("--output: wants a folder for the answers and the results")
    kind = kind_of(data, registry)
    if kind == "benchmark":
        raise ValueError(f"{data}: is a benchmark, wants training pairs")
    with stdout_to_stderr(json):
        folders = folders_by_name(local_folder)
        store = open_set(data, kind, root=data_path, registry=registry, local_folders=folders)
        if show_prompts:
            _show_prompts(store, options, prompts)
            return
        root = data_path or (Path(registry or data).parent)
        content = annotation.annotate(
            store, output, options, root=root, limit=limit, progress=not quiet
        )
    if json:
        print_json(content)
    else:
        for line in lines(content):
            typer.echo(line)
    note(f"{content['kept']} of {content['pairs']} pairs are in {output / 'sft.jsonl'}")
    if content["unanswered"]:
        note("some sides got no answer: the same command asks them again")
        raise typer.Exit(1)


def _json_object(text, name):
    from json import loads

    if text is None:
        return {}
    try:
        value = loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name}: wants a JSON object, got {text}")
    return value


def _show_prompts(store, options, path):
    from umer1.data.annotation.prompts import OURS
    from umer1.data.annotation.sides import SIDES, question

    typer.echo(Path(path or OURS).read_text(encoding="utf-8").rstrip())
    pair = store[0]
    for name, side in zip(SIDES, (pair.query, pair.target), strict=True):
        asked = question(side, pair.dataset)
        media = f", {len(asked.media)} media before it" if asked.media else ""
        typer.echo(f"\n# the first pair's {name}{media}:\n{options.prompts.render(name, asked)}")
