"""The compiled extension, `_C.abi3.so` beside this file: loaded once; a missing one is reported."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

LIBRARY = Path(__file__).with_name("_C.abi3.so")
HOW_TO_BUILD = (
    "build it with `pip install --no-build-isolation -e .` or `python setup.py build_ext --inplace`"
)


class ExtensionStatus(NamedTuple):
    """`loaded`, and in words what was loaded or why not."""

    loaded: bool
    detail: str


@cache
def extension_status() -> ExtensionStatus:
    """Load the extension on the first call and say how that went."""
    if not LIBRARY.exists():
        return ExtensionStatus(False, f"{LIBRARY.name} is not there; {HOW_TO_BUILD}")
    try:
        torch.ops.load_library(LIBRARY)
    except (OSError, RuntimeError) as error:
        reason = f"does not load with torch {torch.__version__}: {str(error).splitlines()[0]}"
        return ExtensionStatus(False, f"{LIBRARY.name} {reason}; {HOW_TO_BUILD}")
    return ExtensionStatus(True, str(LIBRARY))
