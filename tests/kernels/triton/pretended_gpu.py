"""A GPU that is not there: Triton compiles for it, launches do nothing, CPU tensors say they are on it."""

from __future__ import annotations

import contextlib

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from umer1_kernels.backends.triton import products, tables


class OnGpu(torch.Tensor):
    """A CPU tensor that says it is on a GPU; so do the results of its methods."""

    is_cuda = property(lambda self: True)


class Driver:
    """Names an architecture; runs nothing."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device) -> int:
        return 0


def pretend(architecture: str) -> None:
    """From here on launches compile for this architecture and do nothing."""
    triton.runtime.driver.set_active(Driver(int(architecture.removeprefix("sm_"))))
    launch = JITFunction.run
    JITFunction.run = lambda self, *args, grid, warmup, **options: launch(
        self, *args, grid=grid, warmup=True, **options
    )
    torch.cuda.device = lambda device: contextlib.nullcontext()
    tables.architecture = lambda device: architecture
    tables.multiprocessors = lambda device: 132
    products._library_product = lambda left, right, out: out
