"""umer1 eval mmeb | check | prepare | report | score | submission"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli import benchmark as benchmark_commands
from umer1.cli import score, submission
from umer1.cli.benchmark import (
    BasedirOption,
    BenchmarkArgument,
    HubMapOption,
    PageDataOption,
    PromptsOption,
    TasksOption,
)
from umer1.cli.models import DeviceOption, ModelOption
from umer1.cli.output import JsonOption
from umer1.cli.report import report

app = typer.Typer(
    no_args_is_help=True, help="Evaluate a model on a benchmark, and read the results."
)
app.command("check")(benchmark_commands.check)
app.command("prepare")(benchmark_commands.prepare)
app.command("report")(report)
app.command("score")(score.score)
app.command("submission")(submission.submission)


@app.command("mmeb")
def mmeb(
    benchmark: BenchmarkArgument,
    model: ModelOption = "tiny",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory of the result files.")
    ] = Path("runs/eval"),
    modes: Annotated[
        str,
        typer.Option(
            help="disc, gen, gen-disc, disc-gen (queries first), both-disc, …, separated by commas."
        ),
    ] = "disc,gen",
    samples: Annotated[
        int, typer.Option("--samples", "-n", help="Sampled queries for pass@k, up to k = n.")
    ] = 1,
    temperature: Annotated[
        float, typer.Option(help="Of the sampled queries; the rest is greedy.")
    ] = 1.0,
    tasks: TasksOption = None,
    data_basedir: BasedirOption = None,
    hub_map: HubMapOption = None,
    page_data: PageDataOption = "fixed",
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing, as umer1 eval check does.")
    ] = False,
    readout: Annotated[
        str,
        typer.Option(
            help='Disc vectors "at" their token, or "after" it as the released evaluation.'
        ),
    ] = "at",
    ties: Annotated[
        str, typer.Option(help="Equal scores: stable, or upstream (numpy's default).")
    ] = "stable",
    pairing: Annotated[
        str,
        typer.Option(help="Grades and labels: correct, or upstream as its evaluation pairs them."),
    ] = "correct",
    prompts: PromptsOption = "ume-r1",
    max_new_tokens: Annotated[int, typer.Option(help="Longest reasoning and summary.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Rows computed together: what memory holds, by default. Changes no result."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Also save a plot: .png, .svg or .pdf.")] = None,
    device: DeviceOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Evaluate on a benchmark in MMEB-V2's layout: disc, gen, their oracle, pass@k.

    Missing pictures and frames are counted before the model is loaded. Result
    files carry upstream's names. A run that was killed goes on where it stopped,
    item by item, when the same command is given again; torchrun shares the items
    among GPUs.

    \b
    Examples:
      umer1 eval mmeb data/mini --samples 16 --plot runs/eval/plot.png
      umer1 eval mmeb data/mini --tasks digit_sum,page_total --modes gen
      umer1 eval mmeb image.yaml --data-basedir MMEB-V2 -m zhibinlan/UME-R1-2B
      umer1 eval mmeb mmeb-v2 --data-basedir MMEB-V2 --hub-map tables --check
      torchrun --nproc-per-node 8 -m umer1.cli eval mmeb MMEB-V2 -m zhibinlan/UME-R1-2B
    """
    if check:
        benchmark_commands.check(
            benchmark, tasks, data_basedir, hub_map, page_data, quiet=quiet, json=json
        )
        return
    from functools import partial

    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import print_json, stdout_to_stderr
    from umer1.evaluation import evaluate
    from umer1.evaluation.running.ranks import Ranks, local_device

    first = Ranks().first
    with stdout_to_stderr():
        report = evaluate(
            partial(load_embedder, model, local_device(device)),
            benchmark,
            data_basedir=data_basedir,
            names=tasks.split(",") if tasks else None,
            prompts=prompts,
            hub_map=hub_map,
            page_data=page_data,
            output_dir=output,
            modes=modes,
            samples=samples,
            temperature=temperature,
            readout=readout,
            ties=ties,
            pairing=pairing,
            max_new_tokens=max_new_tokens,
            seed=seed,
            batch_size=batch_size,
            model_id=model_identity(model),
            progress=not quiet,
        )
    if not first:
        return
    if plot is not None:
        report.plot(plot)
    if json:
        print_json(report.to_dict())
    else:
        report.print()
        _say_where(output, plot)


def _say_where(output, plot):
    from umer1.cli.output import note

    if output is not None:
        note(f"results are in {output}")
    if plot is not None:
        note(f"the plot is {plot}")
