"""umer1 serve"""

import os
from pathlib import Path
from typing import Annotated

import typer

from umer1.cli.models import DeviceOption

KEYS_VARIABLE = "UMER1_API_KEYS"


def serve(
    model: Annotated[
        str, typer.Argument(help='"tiny" (bundled), a directory, or a Hugging Face id.')
    ] = "tiny",
    host: Annotated[
        str, typer.Option(help="0.0.0.0: reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What requests call the model; default: MODEL.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="disc, gen or both: of requests that do not say.")
    ] = "gen",
    index: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DIRECTORY of `umer1 index`, to be searched; repeat it for more."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="One key per line; any of them opens the server. Or UMER1_API_KEYS=a,b."),
    ] = None,
    allow_media_urls: Annotated[
        bool, typer.Option("--allow-media-urls", help="Fetch http(s) media from public addresses.")
    ] = False,
    media_domain: Annotated[
        list[str] | None, typer.Option(help="Fetch from this domain only; repeat it for more.")
    ] = None,
    media_port: Annotated[
        list[int] | None, typer.Option(help="Fetch from this port; default: 80 and 443.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Rows written together; changes no vector.")] = 64,
    kv_memory: Annotated[
        float | None, typer.Option(help="GiB of keys and values; default: what the slots can use.")
    ] = None,
    max_waiting: Annotated[int, typer.Option(help="Rows that may wait; then 429.")] = 1024,
    max_items: Annotated[int, typer.Option(help="Inputs in one request.")] = 256,
    max_body: Annotated[int, typer.Option(help="MiB of one request.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Most tokens that one sample may write.")] = 2048,
    max_prompt_tokens: Annotated[
        int, typer.Option(help="Most tokens of one input, visual ones included.")
    ] = 16_384,
    request_seconds: Annotated[float, typer.Option(help="Time of one request; then 504.")] = 300,
    drain_seconds: Annotated[
        float, typer.Option(help="Time for what runs after SIGTERM; then 503.")
    ] = 30,
    device: DeviceOption = None,
) -> None:
    """Serve a model over HTTP: OpenAI's embeddings and chat, search, a page.

    Requests of all clients are computed together, and every vector is the one
    that `umer1 embed` gives for the same input.

    \b
    Examples:
      umer1 serve
      umer1 serve zhibinlan/UME-R1-2B --port 8000 --api-key-file keys.txt
      umer1 serve --index photos=photos.index

    \b
    Then:
      curl http://127.0.0.1:8000/v1/embeddings -H 'Content-Type: application/json'
           -d '{"input": "seven", "mode": "both", "return_reasoning": true}'

    SIGTERM (or Ctrl-C) lets what runs finish and refuses the rest; a second one
    ends at once.
    """
    import torch

    from umer1 import Embedder
    from umer1.cli.models import model_identity
    from umer1.cli.output import note
    from umer1.serving.engine_process import EngineProcess
    from umer1.serving.process_memory import bound_memory
    from umer1.serving.settings import MIB, ServerSettings

    settings = ServerSettings(
        model_name=name or model,
        model_identity=model_identity(model),
        mode=mode,
        api_keys=read_keys(api_key_file),
        max_body_bytes=max_body * MIB,
        max_items=max_items,
        allow_media_urls=allow_media_urls,
        media_domains=tuple(media_domain or ()),
        media_ports=tuple(media_port or (80, 443)),
        max_waiting=max_waiting,
        request_seconds=request_seconds,
        drain_seconds=drain_seconds,
        max_tokens=max_tokens,
        max_prompt_tokens=max_prompt_tokens,
    )
    if not 0 <= port < 1 << 16:
        raise ValueError(f"--port: got {port}, wants 0 to 65535")
    if settings.media_domains and not allow_media_urls:
        raise ValueError("--media-domain: wants --allow-media-urls too")
    bound_memory()
    indexes = open_indexes(index or [])
    embedder = Embedder.without_weights(model)
    engine = EngineProcess(
        model, device=device, slots=slots, kv_memory=kv_memory and int(kv_memory * 2**30)
    )
    # this process has the requests, whose pixels are many small products
    torch.set_num_threads(1)
    if engine.device == "cpu":
        note(f"{engine.threads} threads compute")
    if host not in ("127.0.0.1", "::1", "localhost") and not settings.api_keys:
        note(f"anyone who reaches {host}:{port} can use this server: give it --api-key-file")
    for each, opened in indexes.items():
        note(f"index {each}: {len(opened)} items, modes {', '.join(opened.modes)}")

    from umer1.serving.app import create_app
    from umer1.serving.serve import serve as run

    def listening(host: str, port: int) -> None:
        state = app.state.runner.describe()
        keys = f"{len(settings.api_keys)} API keys" if settings.api_keys else "no API key"
        where = f"[{host}]" if ":" in host else host
        note(f"{settings.model_name} ({settings.model_identity}), {keys}")
        note(f"{state['slots']} rows together, {state['memory']}")
        note(f"serving at http://{where}:{port}")

    app = create_app(embedder, settings, indexes, engine)
    run(app, host, port, listening)


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Of a file (a key per line; empty lines and those that begin with # do not count), or of the
    environment."""
    if path is None:
        given = os.environ.get(KEYS_VARIABLE, "").split(",")
        return tuple(key.strip() for key in given if key.strip())
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ValueError(f"{path}: holds no key; without keys leave --api-key-file out")
    return keys


def open_indexes(options: list[str]) -> dict:
    """NAME=DIRECTORY of each, opened."""
    directories = {}
    for option in options:
        name, _, directory = option.partition("=")
        if not name or not directory or "/" in name:
            raise ValueError(f"--index: got {option!r}, wants NAME=DIRECTORY")
        if name in directories:
            raise ValueError(f"--index: {name!r} is there twice")
        directories[name] = Path(directory)
    if not directories:
        return {}
    from umer1.retrieval import VectorIndex

    return {name: VectorIndex.open(directory) for name, directory in directories.items()}
