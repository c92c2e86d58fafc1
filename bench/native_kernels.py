"""What a GPU bench runs: our kernels wherever they can, and a note of which ones did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from umer1_kernels import backends
from umer1_kernels.backends import HOW, Choice

GPU_BACKENDS = ("cuda", "triton")


@contextmanager
def native_kernels() -> Iterator[dict[str, set[str]]]:
    """Under it "auto" takes our GPU kernels on CUDA, as it does once results of them are recorded: benches make those.

    Gives a dict that fills with the backends of every function that is called.
    """
    ran: dict[str, set[str]] = {}
    recorded = backends.RECORDED_ON_GPU

    def noted(*fields) -> Choice:
        choice = Choice(*fields)
        ran.setdefault(choice.function, set()).add(choice.backend)
        return choice

    backends.RECORDED_ON_GPU = frozenset((name, each) for name in GPU_BACKENDS for each in HOW)
    backends.Choice = noted
    try:
        yield ran
    finally:
        backends.RECORDED_ON_GPU, backends.Choice = recorded, Choice
