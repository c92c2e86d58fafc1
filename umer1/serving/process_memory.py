"""Memory of a process that serves for weeks: what libraries keep is bounded.

Prompts differ in length, so two caches grow with every new one. oneDNN keeps a compiled product for
each shape, up to 1024 of some 100 kB. glibc keeps freed pixels and activations in an arena for each
thread, where they fit nothing that comes later.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform

# decoding needs 64 numbers of rows times five shapes; a prompt's own shapes rarely come again
PRODUCTS = 384
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
SECONDS = 10.0  # between two returns of what is free; one takes some 10 ms, in a thread of its own
_LARGE = 1 << 20  # bytes: a larger block goes back to the system when it is freed


def bound_memory() -> None:
    """Call it before anything is computed. What the environment says about either goes first."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PRODUCTS))
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, option, value in (
        ("MALLOC_ARENA_MAX", _ARENA_MAX, 2),
        ("MALLOC_MMAP_THRESHOLD_", _MMAP_THRESHOLD, _LARGE),
        ("MALLOC_TRIM_THRESHOLD_", _TRIM_THRESHOLD, _LARGE),
    ):
        if name not in os.environ:
            mallopt(option, value)


async def return_freed_memory() -> None:
    """Every `SECONDS`, until it is cancelled. Prompts that are kept are small objects among the
    large ones of requests that come and go: glibc holds on to the gaps between them. Nothing to do
    where the C library is another."""
    library = ctypes.CDLL(None)
    while hasattr(library, "malloc_trim"):
        await asyncio.sleep(SECONDS)
        await asyncio.to_thread(library.malloc_trim, 0)


def return_freed_memory_for_ever() -> None:
    """The same, for a thread."""
    asyncio.run(return_freed_memory())
