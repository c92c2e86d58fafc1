"""An index that another process writes to while it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from umer1.retrieval.manifest import Manifest

Read = TypeVar("Read")


def while_it_changes(directory: Path, read: Callable[[Manifest], Read]) -> Read:
    """What `read` makes of the manifest; once more where another process has just replaced it."""
    while True:
        manifest = Manifest.read(directory)
        try:
            return read(manifest)
        except ValueError:
            if Manifest.read(directory) == manifest:
                raise


def check_same(directory: Path, before: Manifest, now: Manifest) -> None:
    """ValueError if what stands in the directory now is another index, not more or less of it."""
    for name in ("model", "readout", "modes", "dimension", "dtype"):
        if getattr(now, name) != getattr(before, name):
            raise ValueError(
                f"{directory}: is another index now, of {name} {getattr(now, name)!r}: open it anew"
            )
