"""umer1 train plan | plot | recipes: what goes around a run."""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption

GIB = 2**30


def plan(
    config: Annotated[
        str, typer.Option("--config", "-c", help="A YAML file, or the name of a recipe.")
    ],
    gpus: Annotated[int, typer.Option("--gpus", help="How many GPUs train.")] = 1,
    gpu: Annotated[
        str, typer.Option(help="Kind of GPU: h200, h100, a100, h20 or l40s; its peak and memory.")
    ] = "h200",
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", help="GiB of a GPU, if not its usual size.")
    ] = None,
    sharding: Annotated[
        str | None,
        typer.Option(help="ddp, zero1, zero2, zero3 or fsdp; default: what the config says."),
    ] = None,
    throughput: Annotated[
        float | None, typer.Option(help="Tokens per second of all GPUs, if you have measured it.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs in the data (umer1 data check counts them).")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Mean tokens of a prompt, visual ones included.")
    ] = None,
    response_tokens: Annotated[int | None, typer.Option(help="Mean tokens of a response.")] = None,
    visual_tokens: Annotated[int | None, typer.Option(help="Mean visual tokens of a pair.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Directory with config.json, or the base, instead of the config's."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="sft or rl, if the config fits both.")] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="key=value over the file.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Memory per GPU, steps, tokens and time of a run, before it starts.

    Needs the shapes of the model (its config.json, or the name of a released
    base), no weights, no data and no GPU. What is assumed is listed.

    \b
    Examples:
      umer1 train plan --config ume-r1-2b-sft --gpus 8
      umer1 train plan --config ume-r1-7b-sft --gpus 8 --gpu h100 --sharding zero3
      umer1 train plan --config ume-r1-2b-rl --gpus 8 --model Qwen/Qwen2-VL-2B
      umer1 train plan --config my.yaml --gpus 4 --pairs 200000 --throughput 90000
    """
    from umer1.cli.output import print_json
    from umer1.cli.recipes import find_config, stage_of
    from umer1.cli.train import read_assignments
    from umer1.training.config import load_config
    from umer1.training.plan import make_plan, sharding_of
    from umer1.training.plan_memory import read_shapes
    from umer1.training.plan_question import Question
    from umer1.training.plan_time import GPU_MEMORY
    from umer1.training.settings import RLConfig, SFTConfig

    path = find_config(config)
    stage = stage or stage_of(path)
    if stage not in ("sft", "rl"):
        raise ValueError(f"--stage: got {stage!r}, wants sft or rl")
    kind = {"sft": SFTConfig, "rl": RLConfig}[stage]
    settings = load_config(path, kind, read_assignments(set or []))
    if gpu not in GPU_MEMORY:
        raise ValueError(f"--gpu: got {gpu!r}, wants one of {', '.join(GPU_MEMORY)}")
    name = model or settings.model
    if model is None and (size := _released_size(path.stem)) and not Path(name).is_dir():
        name = f"Qwen/Qwen2-VL-{size}"  # an RL recipe's model is made by its SFT recipe
    made = make_plan(
        Question(
            config=settings,
            shapes=read_shapes(name),
            gpus=gpus,
            gpu=gpu,
            gpu_memory=round((gpu_memory or GPU_MEMORY[gpu]) * GIB),
            sharding=sharding or sharding_of(settings),
            pairs=pairs,
            prompt_tokens=prompt_tokens,
            response_tokens=response_tokens,
            visual_tokens=visual_tokens,
            throughput=throughput,
        )
    )
    if json:
        print_json({"config": str(path), "model": name, **made.to_dict()})
    else:
        typer.echo("\n".join(lines(made, name)))


def lines(made, model: str) -> list[str]:
    """The plan as text."""
    from umer1.training.log_line import duration, quantity

    gib = lambda size: f"{size / GIB:8.2f} GiB"
    trainable = made.parameters["trainable"]
    shown = [
        f"{made.stage} of {model}: {made.parameters['all'] / 1e9:.3f} billion parameters, "
        f"{trainable / 1e9:.3f} trained; {made.gpus} x {made.gpu_memory / GIB:.0f} GiB, {made.sharding}",
        "",
        "memory of a GPU",
        *(f"  {name.replace('_', ' '):30}{gib(size)}" for name, size in made.memory.items()),
        f"  {'peak, batch of mean lengths':30}{gib(made.peak)}   {_verdict(made.fits)}",
        f"  {'peak, all of greatest length':30}{gib(made.longest_peak)}   {_verdict(made.longest_fits)}",
        "",
        f"{made.steps} steps, {made.epochs:.2f} epochs of {made.pairs:,} pairs, {quantity(made.tokens)} tokens",
        f"{duration(made.seconds)}, {made.seconds / 3600 * made.gpus:,.0f} GPU hours at "
        f"{quantity(made.tokens_per_second)} tokens/s ({made.throughput_from})",
    ]
    if made.advice:
        shown += ["", "to make it fit"] + [f"  {text}" for text in made.advice]
    return shown + ["", "assumed"] + [f"  {text}" for text in made.assumptions]


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Output directories of runs.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the PNG files go; default: plots/ of the run."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Curves of one run, or of several over each other, from their metrics.

    \b
    Examples:
      umer1 train plot runs/tiny-sft
      umer1 train plot runs/a runs/b --out plots/a-and-b
    """
    from umer1.cli.output import note, print_json
    from umer1.training.plots import plot_runs

    if out is None and len(runs) > 1:
        raise ValueError("--out: wants a directory when several runs are compared")
    made = plot_runs(runs, out or runs[0] / "plots")
    if json:
        print_json({"plots": [str(path) for path in made]})
    else:
        note(f"{len(made)} plots in {out or runs[0] / 'plots'}")


def recipes(json: JsonOption = False) -> None:
    """The recipes of the package, one line each; --config takes their names.

    A recipe is a commented YAML file with the source of every value; copy it
    and change what you need, or set single values with --set.
    """
    from umer1.cli.output import print_json
    from umer1.cli.recipes import RECIPES, list_recipes

    found = list_recipes()
    if json:
        print_json({"recipes": found})
        return
    for recipe in found:
        typer.echo(f"{recipe['name']:16} {recipe['stage']:4} {recipe['about']}")
    typer.echo(f"\nin {RECIPES}")


def _verdict(fits: bool) -> str:
    return "fits" if fits else "does not fit"


def _released_size(recipe: str) -> str | None:
    return next((size.upper() for size in ("2b", "7b") if size in recipe.split("-")), None)
