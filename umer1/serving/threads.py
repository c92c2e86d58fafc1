"""How many threads the CPU's products get in a server."""

from __future__ import annotations

import os

import torch


def leave_a_core() -> int:
    """All cores but one, unless OMP_NUM_THREADS says; the number. Changes no vector.

    The event loop and the pixels of requests need the one. Threads of a product wait for each other
    spinning: with one of them out of its core, each of the thousands of small products of a step
    takes a turn of the scheduler, and a server of two cores on two threads a multiple of the time.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    return torch.get_num_threads()
