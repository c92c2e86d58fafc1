"""What media are called in records that are written: paths below a root, files for bytes."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from umer1.data.cache import write_whole


def below(root: str | os.PathLike, path: str) -> str:
    """`path` relative to `root`, with forward slashes; absolute where it lies elsewhere."""
    relative = os.path.relpath(path, root)
    outside = relative == os.pardir or relative.startswith(os.pardir + os.sep)
    return os.path.abspath(path) if outside else relative.replace(os.sep, "/")


class MediaNames:
    """Medium -> its name in a record.

    Pictures that a table holds itself are written to `folder`, each distinct one once.
    """

    def __init__(self, root: str | os.PathLike, folder: Path):
        self.root, self.folder = os.path.abspath(root), folder.absolute()

    def __call__(self, medium: str | bytes) -> str:
        if isinstance(medium, str):
            return below(self.root, medium)
        name = f"{hashlib.sha256(medium).hexdigest()[:24]}{_suffix(medium)}"
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write(medium))
        return below(self.root, str(path))


def _suffix(content: bytes) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            return f".{(image.format or 'bin').lower()}".replace("jpeg", "jpg")
    except (UnidentifiedImageError, OSError, ValueError):
        return ".bin"  # whoever opens it is told
