"""What tests of our own CUDA kernels need beside a GPU."""

from __future__ import annotations

import pytest

from umer1_kernels.extension import cuda_kernels_missing

needs_cuda_kernels = pytest.mark.skipif(
    cuda_kernels_missing() is not None, reason=cuda_kernels_missing() or "they are built"
)
