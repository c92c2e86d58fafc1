"""umer1 data pass-rates"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption


def pass_rates(
    data: Annotated[str, typer.Argument(help="Pairs: RL rows, SFT records, a VLM2Vec YAML.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of lines, .jsonl.")],
    model: ModelOption = "tiny",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Of each query.")] = 8,
    temperature: Annotated[float, typer.Option(help="Of the samples; targets are greedy.")] = 1.0,
    group: Annotated[int, typer.Option(help="Pairs of a source compared with each other.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reasoning and summary.")] = 2048,
    batch_size: Annotated[
        int, typer.Option(help="Items computed together; changes no result.")
    ] = 32,
    data_path: Annotated[
        Path | None,
        typer.Option(help="What media paths are below; the file's own directory by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of sampling and of the groups.")] = 0,
    device: DeviceOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure how often a model's samples find each pair's own target, for rl-subset.

    A stopped run goes on with the same command.

    \b
    Examples:
      umer1 data rl-subset train_image.yaml -o pool.json -n 44000 --data-path /data
      umer1 data pass-rates pool.json -o rates.jsonl -m runs/sft --data-path /data
      umer1 data rl-subset pool.json -o rl.json --pass-rates rates.jsonl --data-path /data
    """
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.data.sets import kind_of, open_set
    from umer1.evaluation.pair_pass_rates import measure_pass_rates

    kind = kind_of(data)
    if kind == "benchmark":
        raise ValueError(f"{data}: is a benchmark, wants training pairs")
    with stdout_to_stderr():
        told = measure_pass_rates(
            load_embedder(model, device),
            open_set(data, kind, root=data_path),
            output,
            samples=samples,
            temperature=temperature,
            group=group,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
            model_id=model_identity(model),
            progress=not quiet,
        )
    if json:
        print_json(told)
    else:
        for name, rate in told["sources"].items():
            typer.echo(f"{rate:.3f}  {name}")
        if told["measured"]:
            typer.echo(f"{told['pass_rate']:.3f}  all")
    note(f"{told['measured']} of {told['pairs']} pairs are in {output}")
