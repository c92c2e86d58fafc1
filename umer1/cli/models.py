"""The model a command works with, and what identifies its weights."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help='"tiny" (bundled), a directory, or a Hugging Face id.')
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu or cuda; the GPU where there is one, by default.")
]

# what besides the weights changes a vector
SETTINGS = ("config.json", "tokenizer.json", "preprocessor_config.json", "umer1.json")
# larger weight files are identified by samples spread over them
WHOLE_FILE = 1 << 28
SAMPLES, SAMPLE_BYTES = 64, 1 << 16


def load_embedder(model: str, device: str | None = None, engine: str = "native"):
    """The umer1.Embedder of `model`."""
    from umer1 import Embedder

    return Embedder.load(model, device=device, engine=engine)


def model_identity(model: str) -> str:
    """A name for exactly these weights: directory name and digest, or the id of a model on the hub.

    Vectors, indexes and results are tied to it, so that those of an older checkpoint in the same
    place are noticed.
    """
    directory = _directory(model)
    if directory is None:
        return model
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*")):
        if path.suffix == ".safetensors" or path.name in SETTINGS:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            _add_content(digest, path)
    return f"{directory.name}@{digest.hexdigest()[:16]}"


def _directory(model):
    from umer1.embedder import BUNDLED

    directory = Path(BUNDLED.get(model, model))
    return directory if directory.is_dir() else None


def _add_content(digest, path):
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= WHOLE_FILE:
            digest.update(file.read())
            return
        for sample in range(SAMPLES):
            file.seek(sample * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
