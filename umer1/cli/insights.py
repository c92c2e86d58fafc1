"""umer1 eval insights"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.benchmark import BasedirOption, HubMapOption, PageDataOption
from umer1.cli.models import DeviceOption
from umer1.cli.output import JsonOption


def insights(
    run: Annotated[
        Path, typer.Argument(help="Output directory of an evaluation with modes disc,gen.")
    ],
    before: Annotated[
        Path | None, typer.Option(help="The same evaluation of the model before RL.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(help="What the run evaluated; its queries' reasoning is then edited."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The run's model; goes with --benchmark.")
    ] = None,
    data_basedir: BasedirOption = None,
    hub_map: HubMapOption = None,
    page_data: PageDataOption = "fixed",
    queries: Annotated[int, typer.Option(help="Queries per task whose reasoning is edited.")] = 100,
    device: DeviceOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    json: JsonOption = False,
) -> None:
    """Gen against disc, their oracle and routers, pass@k and fusions, RL, reasoning.

    Reads a finished evaluation. Samples (umer1 eval mmeb --samples 16) add
    pass@k and fusions, --before adds the effect of RL, --benchmark and --model
    show how much vectors depend on the reasoning. All with 95 % intervals.
    Tables are printed; they, all numbers and a row per query are written to
    RUN/insights.md, insights.json and insights_queries.jsonl.

    \b
    Examples:
      umer1 eval insights runs/eval
      umer1 eval insights runs/eval --benchmark data/mini --model tiny
      umer1 eval insights runs/rl --before runs/sft --json | jq .modes.overall.rl
    """
    from umer1.cli.models import load_embedder, model_identity
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.evaluation.insights.analysis import analyse_run
    from umer1.evaluation.runs import load_run

    if (benchmark is None) != (model is None):
        raise ValueError("--benchmark, --model: got one of them; editing reasoning needs both")
    tasks = embedder = None
    with stdout_to_stderr():
        if benchmark is not None:
            made = load_run(run)
            if (own := model_identity(model)) != made.settings["model"]:
                raise ValueError(
                    f"--model: {own} did not make the run, {made.settings['model']} did"
                )
            where = {"data_basedir": data_basedir, "hub_map": hub_map, "page_data": page_data}
            tasks = _tasks(made, benchmark, where)
            embedder = load_embedder(model, device)
        found = analyse_run(
            run,
            before=before,
            benchmark=tasks,
            embedder=embedder,
            queries=queries,
            progress=not quiet,
        )
        found.save()
    if json:
        print_json(found.content)
    else:
        typer.echo(found.text())
        note(f"all numbers are in {found.run.directory / 'insights.json'}")


def _tasks(made, benchmark, where):
    from umer1.evaluation import load_tasks, require_media

    prompts = made.settings["prompts"]
    tasks = load_tasks(benchmark, names=list(made.tasks), prompts=prompts, **where)
    require_media(tasks)
    return tasks
