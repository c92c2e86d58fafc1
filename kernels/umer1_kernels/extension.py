"""The compiled extension, `_C.abi3.so` beside this file. A missing one is reported, not hidden."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

LIBRARY = Path(__file__).with_name("_C.abi3.so")
OPERATORS = (
    "row_pools",
    "column_pools",
    "softmax_gradient_",
    "bf16_softmax_available",
    "bf16_pools",
    "bf16_keep",
    "bf16_kept_gradient_",
    "bf16_gradient_",
    "group_reward",
    "gather_hidden",
    "gather_hidden_backward_",
    "decode_attention",
    "append_kv_",
    "sample_tokens",
    "rms_norm",
    "swiglu",
    "quick_gelu",
    "rotate_heads_",
    "packed_attention",
)
HOW_TO_BUILD = (
    "build it with `pip install --no-build-isolation -e .` or `python setup.py build_ext --inplace`"
)


class ExtensionStatus(NamedTuple):
    """`loaded`, and in words what was loaded or why not."""

    loaded: bool
    detail: str


def load(library: Path) -> ExtensionStatus:
    """Load the operators of this library and say how that went."""
    if not library.exists():
        return ExtensionStatus(False, f"{library.name} is not there; {HOW_TO_BUILD}")
    try:
        torch.ops.load_library(library)
    except (OSError, RuntimeError) as error:
        reason = f"does not load with torch {torch.__version__}: {str(error).splitlines()[0]}"
        return ExtensionStatus(False, f"{library.name} {reason}; {HOW_TO_BUILD}")
    missing = [name for name in OPERATORS if not hasattr(torch.ops.umer1_kernels, name)]
    if missing:  # left over from other sources
        return ExtensionStatus(False, f"{library.name} lacks {', '.join(missing)}; {HOW_TO_BUILD}")
    return ExtensionStatus(True, str(library))


# once, at import: torch.compile cannot trace the loading
_status = load(LIBRARY)


def extension_status() -> ExtensionStatus:
    """Whether the compiled extension is loaded, and from where or why not."""
    return _status
