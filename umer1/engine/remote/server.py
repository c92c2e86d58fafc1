"""What a server that writes tokens does for `RemoteEngine`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from umer1.engine.remote.wire import WirePrompt
from umer1.engine.requests import Sampling


class Completion(NamedTuple):
    """logprobs of each token; state: float32 [H], of the input that gave the last token. None where
    the server does not give them."""

    tokens: list[int]
    logprobs: list[float] | None = None
    state: Tensor | None = None


class Server(Protocol):
    """gives_states: `Completion.state` is there, so no model is needed here."""

    url: str
    gives_states: bool
    takes_videos: bool

    async def complete(
        self,
        prompt: WirePrompt,
        written: list[int],
        count: int,
        stop: list[int],
        sampling: Sampling,
        seed: int,
    ) -> Completion:
        """Go on after prompt and `written` with at most `count` tokens, to the first of `stop`,
        which is the last token of the answer."""

    async def longest(self) -> int:
        """Most tokens of prompt and answer together."""

    async def load(self, directory: str, version: int) -> None:
        """New weights from a checkpoint directory that the server can read."""

    async def sleep(self) -> None: ...

    async def wake(self) -> None: ...

    async def close(self) -> None: ...


def state_tensor(values: list[float]) -> Tensor:
    """float32 [H] of a state that came as JSON."""
    return torch.tensor(values, dtype=torch.float32)
