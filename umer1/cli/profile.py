"""umer1 profile"""

from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption
from umer1.profiling.request import LOSS_SIZES, TARGETS, read, shape_help

HELP = f"""Show where the time of a loss, a prefill, decoding or a training step goes.

Runs the real thing on synthetic inputs of a stated shape, under torch's
profiler, and prints for each operator (on CUDA: each kernel) its time, how
much it has to compute and to move by models of its work, and how near that is
to the roofline: what this machine can do, measured in the same run.

\b
Examples:
  umer1 profile loss
  umer1 profile loss --shape N=4096,D=1536,directions=2
  umer1 profile loss --loss linear_cross_entropy --shape T=512,live=30,dtype=float32
  umer1 profile decode --shape prompts=16,samples=8,new=64 --trace decode.json
  umer1 profile sft-step --plot roofline.png --json profile.json
  umer1 profile loss --device cuda --backend triton --ncu row_pools_kernel

\b
Names of --shape and their defaults (dtype=float32 or bfloat16 everywhere):
{chr(10).join("  " + line for line in shape_help().splitlines())}
"""


def profile(
    target: Annotated[str, typer.Argument(help=f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}.")],
    shape: Annotated[
        str, typer.Option(help="Sizes over the defaults: N=4096,D=1536,directions=2,dtype=float32.")
    ] = "",
    loss: Annotated[str, typer.Option(help=f"Which loss: {', '.join(LOSS_SIZES)}.")] = "info_nce",
    backend: Annotated[
        str, typer.Option(help="Of the loss: auto, or one of umer1_kernels' by name.")
    ] = "auto",
    model: Annotated[
        str, typer.Option("--model", "-m", help='"tiny" (bundled), a directory, or a hub id.')
    ] = "tiny",
    device: DeviceOption = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a Chrome trace (chrome://tracing, Perfetto).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a roofline plot: .png or .svg.")] = None,
    json: Annotated[
        str, typer.Option(help="Write everything as JSON to this file; - is stdout, alone.")
    ] = "",
    ncu: Annotated[
        str,
        typer.Option(help="Print, and where ncu is installed run, its command for this kernel."),
    ] = "",
) -> None:
    from umer1.cli.output import note, print_json, stdout_to_stderr

    device = device or _own_device()
    request = read(target, shape=shape, loss=loss, device=device, backend=backend, model=model)
    if ncu:
        raise typer.Exit(_ncu(ncu, request))
    if plot is not None:
        _check_plot(plot)

    from umer1.profiling.profile import run

    with stdout_to_stderr():
        found = run(request, trace)
    if json == "-":
        print_json(found.to_dict())
    else:
        _show(found)
        if json:
            _write_json(Path(json), found.to_dict())
            note(f"wrote {json}")
    if trace is not None:
        note(f"wrote {trace}")
    if plot is not None:
        from umer1.profiling.plot import save

        save(found, plot)
        note(f"wrote {plot}")


profile.__doc__ = HELP


def _own_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _show(found) -> None:
    from rich.console import Console

    from umer1.profiling.table import show

    console = Console()
    # a file or a pipe has no width of its own
    show(found, console if console.is_terminal else Console(width=150))


def _ncu(kernel, request) -> int:
    from umer1.cli.output import note
    from umer1.profiling import ncu

    if request.device != "cuda":
        raise ValueError(f"--ncu {kernel}: it looks at kernels on a GPU; give --device cuda")
    typer.echo(ncu.text(kernel, request))
    reason, status = ncu.run(kernel, request)
    if reason:
        note(reason)
    return status


def _check_plot(path: Path) -> None:
    from importlib.util import find_spec

    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot {path}: need a name that ends in .png or .svg")
    if find_spec("matplotlib") is None:
        raise ValueError("--plot: matplotlib is not installed (pip install 'umer1[eval]')")


def _write_json(path: Path, content: dict) -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
