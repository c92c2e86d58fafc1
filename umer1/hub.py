"""A checkpoint's files: a directory as it is, or a hub repository's, fetched once into its cache."""

from __future__ import annotations

import os
from pathlib import Path

SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model")
WEIGHTS = ("*.safetensors",)


def local_directory(
    path_or_hub_id: str | os.PathLike[str], patterns: tuple[str, ...], revision: str | None = None
) -> Path:
    """The directory that holds the files of `patterns`; of a hub id, those of `revision`.

    Raises:
        ValueError: neither a directory nor something the hub gives.
    """
    if Path(path_or_hub_id).is_dir():
        return Path(path_or_hub_id)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(str(path_or_hub_id), allow_patterns=list(patterns), revision=revision)
        )
    except HFValidationError:
        raise ValueError(f"{path_or_hub_id}: no such directory, and not a hub id") from None
    except OSError as error:  # the hub's own errors among them
        raise ValueError(
            f"{path_or_hub_id}: no such directory, and the hub does not give it: {error}"
        ) from None
