"""umer1 train sft | rl | plan | plot | recipes"""

from typing import Annotated

import typer

from umer1.cli import train_plan
from umer1.cli.output import JsonOption

app = typer.Typer(
    no_args_is_help=True,
    help="""Train a model: sft, then rl.

\b
The bundled model again, on a CPU:
  umer1 data mini --out data/mini
  umer1 train sft --config tiny-sft
  umer1 train rl  --config tiny-rl
\b
UME-R1 from the released data, on GPUs:
  umer1 train recipes                                   what there is, one line each
  umer1 train plan --config ume-r1-2b-sft --gpus 8      memory, steps, time, before it costs anything
  torchrun --nproc-per-node 8 -m umer1.cli train sft --config ume-r1-2b-sft
  torchrun --nproc-per-node 8 -m umer1.cli train rl  --config ume-r1-2b-rl
\b
While it runs, in its output directory:
  sft_metrics.jsonl   a row per logged step, with warnings of failure and what to change
  sft_log             for tensorboard --logdir; --set wandb_project=NAME logs to wandb as well
  samples.html        what the model writes, with its rewards (samples_every)
  checkpoints         the same command goes on from the newest one
  model, plots        at the end: a checkpoint that transformers loads, curves

docs/training.md explains every line and every setting.""",
)
app.command("plan")(train_plan.plan)
app.command("plot")(train_plan.plot)
app.command("recipes")(train_plan.recipes)

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config", "-c", help="A YAML file, or the name of a recipe (umer1 train recipes)."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="key=value over the file, as often as needed (optimizer.learning_rate=1e-4).",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command("sft")
def sft(
    config: ConfigOption,
    set: SetOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Supervised fine-tuning: two contrastive losses and the next-token loss.

    A run that was killed goes on from its newest checkpoint when started again.
    Several GPUs: through torchrun or accelerate launch.

    \b
    Examples:
      umer1 train sft --config tiny-sft
      umer1 train sft --config tiny-sft --set steps=200 --set output=runs/short
      torchrun --nproc-per-node 8 -m umer1.cli train sft --config my.yaml
    """
    _train("sft", config, set, quiet, json)


@app.command("rl")
def rl(
    config: ConfigOption,
    set: SetOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Reinforcement learning (GRPO) on both sides, from a model that SFT has made.

    The reward is format + rank x similarity gap of the generated embeddings.

    \b
    Examples:
      umer1 train rl --config tiny-rl --set model=runs/tiny-sft/model
      umer1 train rl --config my.yaml --set generations=8 --set temperature=1.0
    """
    _train("rl", config, set, quiet, json)


def _train(stage, config, assignments, quiet, as_json):
    from importlib import import_module

    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.cli.recipes import find_config
    from umer1.training.config import load_config
    from umer1.training.settings import RLConfig, SFTConfig

    kind = {"sft": SFTConfig, "rl": RLConfig}[stage]
    path = find_config(config)
    settings = load_config(path, kind, read_assignments(assignments or []))
    with stdout_to_stderr(as_json):
        finished = import_module(f"umer1.training.{stage}").run(settings, progress=not quiet)
    if as_json:
        print_json({"stage": stage, "config": str(path), "model": str(finished)})
    else:
        note(f"the finished model is in {finished}")


def read_assignments(assignments: list[str]) -> dict:
    """{"optimizer.learning_rate": 1e-4} of ["optimizer.learning_rate=1e-4"]; values are YAML."""
    import yaml

    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set {assignment}: need key=value")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {assignment}: {value!r} is not a value") from None
    return values
