"""umer1 train sft | rl"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.output import JsonOption

app = typer.Typer(no_args_is_help=True, help="Train a model: sft, then rl.")

ConfigOption = Annotated[
    str,
    typer.Option(
        "--config", "-c", help="A YAML file, or the name of a recipe of the package (mini-sft)."
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
      umer1 train sft --config mini-sft
      umer1 train sft --config mini-sft --set steps=200 --set output=runs/short
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
      umer1 train rl --config mini-rl --set model=runs/mini-sft/model
      umer1 train rl --config my.yaml --set generations=8 --set temperature=1.0
    """
    _train("rl", config, set, quiet, json)


def _train(stage, config, assignments, quiet, as_json):
    from importlib import import_module

    from umer1.cli.output import note, print_json, stdout_to_stderr
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


def find_config(name: str) -> Path:
    """A file, or a recipe that comes with the package."""
    recipes = Path(__file__).parent.parent / "recipes"
    for path in (Path(name), recipes / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in recipes.glob("*.yaml")))
    raise ValueError(f"--config {name}: no such file, and no such recipe (there are {known})")


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
