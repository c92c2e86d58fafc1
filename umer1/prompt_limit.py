"""How long the prompt of one item may be: what the model reads, and what its engine has room for."""

from __future__ import annotations

from typing import NamedTuple

from umer1.engine import Engine
from umer1.model.config import ModelConfig


class PromptLimit(NamedTuple):
    """tokens: of the longest prompt that may be followed by all the tokens asked for. why: in words."""

    tokens: int
    why: str

    @classmethod
    def of(cls, config: ModelConfig, engine: Engine, new_tokens: int) -> PromptLimit:
        """new_tokens: most that are written after each prompt.

        Raises ValueError if they leave no room for a prompt.
        """
        written = f", {new_tokens} of them for max_new_tokens" if new_tokens else ""
        reads = config.max_position_embeddings
        limit = cls(reads - new_tokens, f"the model reads {reads} tokens{written}")
        held = engine.longest_prompt(new_tokens)
        if held is not None and held < limit.tokens:
            limit = cls(held, f"the engine has room for {held + new_tokens} tokens{written}")
        if limit.tokens < 1:
            raise ValueError(
                f"max_new_tokens: got {new_tokens}, leaves no room for a prompt: {limit.why}"
            )
        return limit

    def check(self, tokens: int, where: str) -> None:
        """ValueError for a longer prompt; `where` says whose it is."""
        if tokens > self.tokens:
            raise ValueError(
                f"{where}: {tokens} prompt tokens, wants at most {self.tokens}: {self.why}"
            )
