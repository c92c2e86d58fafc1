"""Names on the disk: a file that was made, renamed or removed is there after a crash once its folder is."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Names in `folder` are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
