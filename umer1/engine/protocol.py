"""What every engine does: five methods.

for finished in engine.submit(prompts, Sampling(max_new_tokens=256), samples=8):
    print(finished.prompt, finished.rollout.finish)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor

from umer1.engine.requests import Finished, Prompt, Sampling


class Engine(Protocol):
    def submit(
        self, prompts: Iterable[Prompt], sampling: Sampling, *, samples: int = 1
    ) -> Iterator[Finished]:
        """Continue every prompt `samples` times; results come as rows finish, in any order.

        A list is checked before anything runs; another iterable is read as there is room. With
        samples=0 nothing is generated: each prompt gives its disc vector. Closing the iterator
        cancels what has not finished.
        """

    def longest_prompt(self, new_tokens: int) -> int | None:
        """Tokens of the longest prompt that there is room for if each of its samples writes
        `new_tokens` (0: it is only read); below 1 if there is none, None if any fits."""

    def load(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """New weights by their checkpoint names (none: they were changed in place). What was
        computed with the old ones is dropped; rollouts carry `version` from here on. Nothing may be
        running."""

    def sleep(self) -> None:
        """Give back the memory of keys, values and caches; weights stay. Nothing may be running."""

    def wake(self) -> None:
        """Work again after `sleep`."""
