"""umer1 embed --engine ray: its options, and the way to umer1.integrations.ray_embed."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

PANEL = "With --engine ray"


def _option(name: str, help: str):
    return typer.Option(name, help=help, rich_help_panel=PANEL)


ShardItemsOption = Annotated[
    int, _option("--shard-items", "Items per output file: what a killed worker loses at most.")
]
BadItemsOption = Annotated[
    str, _option("--bad-items", '"stop" at an unusable item, or "record" why it has no vectors.')
]
WorkersOption = Annotated[int | None, _option("--workers", "Default: as many as fit.")]
WorkerCpusOption = Annotated[
    float | None, _option("--worker-cpus", "Of one worker; default: its share of a machine.")
]
WorkerGpusOption = Annotated[
    float | None, _option("--worker-gpus", "Of one worker; default: 1 where there are GPUs.")
]
RayAddressOption = Annotated[
    str | None,
    _option("--ray-address", "Of a cluster; default: $RAY_ADDRESS, else a Ray of its own."),
]


def refuse_options(context: typer.Context) -> None:
    """ValueError for an option of this panel that was given with another engine."""
    names = {"shard_items", "bad_items", "workers", "worker_cpus", "worker_gpus", "ray_address"}
    for name in sorted(names):
        if context.get_parameter_source(name).name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')}: wants --engine ray")


def embed_on_cluster(
    sources: list[str],
    output: Path | None,
    model: str,
    options: dict,
    cluster,
    *,
    json: bool,
    **settings,
) -> None:
    """Embed files into a directory; print where and how many. For the rest see `embed_on_ray`."""
    from umer1.cli.models import model_identity
    from umer1.cli.output import note, print_json, stdout_to_stderr
    from umer1.integrations import ray_embed

    _check(output, options)
    identity = model_identity(model)
    if Path(model).is_dir():
        # workers run elsewhere
        model = str(Path(model).absolute())
    with stdout_to_stderr():
        done = ray_embed.embed_on_ray(
            [Path(source) for source in sources],
            output,
            model=identity,
            load=partial(load_in_worker, model, identity),
            options=options,
            cluster=cluster,
            **settings,
        )
        note(f"wrote {done['items']} items to {output}, {done['shards']} files in shards/")
        if done["bad"]:
            note(f"{done['bad']} items could not be used and have no vectors: see their `error`")
        if done["missed"]:
            note(f"{done['missed']} generations wrote no <gen_emb>: see `finish`")
    if json:
        print_json({"model": identity, "output": str(output), **done})


def load_in_worker(model: str, identity: str, cpus: float, gpus: float):
    """The Embedder of a worker, which uses as many threads as it was given CPUs.

    Raises:
        ValueError: this machine has other weights under that name than the one that started the run.
    """
    import torch

    from umer1.cli.models import load_embedder, model_identity

    torch.set_num_threads(max(1, int(cpus)))
    if (found := model_identity(model)) != identity:
        raise ValueError(
            f"--model {model}: is {found} on {os.uname().nodename}, and {identity} where the run "
            "was started"
        )
    return load_embedder(model, "cuda" if gpus else "cpu")


def _check(output: Path | None, options: dict) -> None:
    """Before anything is started: a wrong option would be found by every worker."""
    from umer1.engine import Sampling

    if output is None or output.suffix in (".npz", ".jsonl") or output.is_file():
        raise ValueError(f"--output: got {output}, --engine ray wants the name of a directory")
    mode, readout = options["mode"], options["readout"]
    if mode not in ("disc", "gen", "both"):
        raise ValueError(f"--mode: got {mode!r}, wants 'disc', 'gen' or 'both'")
    if readout not in ("at", "after"):
        raise ValueError(f"--readout: got {readout!r}, wants 'at' or 'after'")
    if options["n"] < 1 or (options["n"] > 1 and options["temperature"] == 0):
        raise ValueError(
            f"--samples: got {options['n']} with --temperature {options['temperature']}; several "
            "samples need a temperature above 0"
        )
    if options["batch_size"] < 1:
        raise ValueError(f"--batch-size: got {options['batch_size']}, wants at least 1")
    Sampling(options["max_new_tokens"], options["temperature"])
