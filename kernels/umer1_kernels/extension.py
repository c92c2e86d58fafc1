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
    "group_reward_from_vectors",
    "gather_hidden",
    "gather_hidden_backward_",
    "generation_step_",
    "decode_attention",
    "append_kv_",
    "sample_tokens",
    "small_dual_info_nce",
    "small_dual_info_nce_gradient",
    "rms_norm",
    "swiglu",
    "quick_gelu",
    "rotate_heads_",
    "packed_attention",
    "packed_linear",
    "has_cuda_kernels",
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


# once, at import: torch.compile can trace neither
_status = load(LIBRARY)
_has_cuda_kernels = _status.loaded and torch.ops.umer1_kernels.has_cuda_kernels()


def extension_status() -> ExtensionStatus:
    """Whether the compiled extension is loaded, and from where or why not."""
    return _status


def cuda_kernels_missing() -> str | None:
    """Why the extension has no CUDA kernels to call, or None."""
    if not _status.loaded:
        return f"the compiled extension is missing: {_status.detail}"
    if not _has_cuda_kernels:
        return (
            "the compiled extension was built without CUDA kernels; build it with a CUDA torch and "
            "nvcc >= 12.8 (UMER1_BUILD_CUDA=1 says what is missing)"
        )
    return None
