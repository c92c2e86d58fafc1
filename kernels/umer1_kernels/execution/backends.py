"""The primitives of a backend by its name, made once."""

from __future__ import annotations

import functools

from umer1_kernels.execution.protocol import Primitives


@functools.cache
def primitives_of(backend: str) -> Primitives:
    """`backend` was chosen by backends.choose: it can run."""
    if backend == "triton":
        from umer1_kernels.backends.triton.primitives import TritonPrimitives

        return TritonPrimitives()
    from umer1_kernels.backends.cpu.primitives import CpuPrimitives

    return CpuPrimitives()
