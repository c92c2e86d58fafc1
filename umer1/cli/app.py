"""All commands, put together."""

from typing import Annotated

import typer

from umer1.cli import data, doctor, embed, evaluate, index, insights, profile, search, serve, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.command("embed")(embed.embed)
app.add_typer(index.app, name="index")
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("profile")(profile.profile)
app.add_typer(train.app, name="train")
evaluate.app.command("insights")(insights.insights)
app.add_typer(evaluate.app, name="eval")
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        from umer1 import __version__

        typer.echo(f"umer1 {__version__}")
        raise typer.Exit


@app.callback()
def umer1(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Reasoning-driven multimodal embeddings: embed, search, train, evaluate, profile.

    Text, images and videos become a discriminative vector (one forward pass)
    or a generative one (the model reasons and summarises first). The bundled
    model "tiny" makes every command work without a download.

    \b
    Start here:
      umer1 doctor                             what works on this machine
      umer1 embed "seven" photo.jpg            vectors, and the reasoning
      umer1 search "seven" --items photos/     nearest neighbours
      umer1 index build my.index photos/       keep an index, then: search --index
      umer1 serve                              OpenAI's API, and a page
      umer1 data mini --out data/mini          a small, real benchmark
      umer1 train sft --config tiny-sft        train on it from scratch
      umer1 eval mmeb data/mini                scores, a table and a plot
      umer1 profile loss                       where the time goes

    Every command explains itself with --help. Results go to stdout,
    progress and messages to stderr.
    """
