"""The processes of one evaluation: this one alone, or those that torchrun started.

Every process writes its own files in a directory that all of them see; they talk only to start
together and to end together.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

# the slowest process may work for days after the fastest has finished
PATIENCE = timedelta(days=30)
Made = TypeVar("Made")


class Ranks:
    """`rank` of `count` processes. A context: leaves the process group that it entered."""

    def __init__(self):
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self._group, self._own = None, False

    @property
    def first(self) -> bool:
        return self.rank == 0

    def owns(self, place: int) -> bool:
        """Whether this process computes item `place` of a side: by its place alone, so that all
        agree whatever is there already."""
        return place % self.count == self.rank

    def in_first(self, work: Callable[[], Made]) -> Made | None:
        """What `work` makes in the first process, before any other goes on (None there).

        Its error ends them all, the others without a word (SystemExit): the first says why.
        """
        if self.count == 1:
            return work()
        from torch import distributed

        made, told = None, [False]
        try:
            if self.first:
                made = work()
                told = [True]
        finally:
            distributed.broadcast_object_list(told, src=0, group=self._group)
        if not told[0]:
            raise SystemExit(1)
        return made

    def meet(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait until every process is here, calling `meanwhile` (which should take its time)."""
        if self.count == 1:
            return
        from torch import distributed

        waiting = distributed.barrier(group=self._group, async_op=True)
        while meanwhile is not None and not waiting.is_completed():
            meanwhile()
        waiting.wait()

    def __enter__(self) -> "Ranks":
        if self.count > 1:
            from torch import distributed

            self._own = not distributed.is_initialized()
            if self._own:
                distributed.init_process_group("gloo", timeout=PATIENCE)
            else:
                self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        return self

    def __exit__(self, *error) -> None:
        if self._own:
            from torch import distributed

            distributed.destroy_process_group()


def local_device(device: str | None) -> str | None:
    """The GPU of this process among those that torchrun started on a machine with GPUs.

    A device that names its number, a single process, and a machine without GPUs: as it is.
    """
    if "LOCAL_RANK" not in os.environ or device not in (None, "cuda"):
        return device
    import torch

    if not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
