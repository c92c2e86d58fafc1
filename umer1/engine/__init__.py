"""Generation: prompts in, tokens and vectors out."""

from umer1.engine.generation import generate
from umer1.engine.native import NativeEngine
from umer1.engine.protocol import Engine
from umer1.engine.requests import (
    Finished,
    Generated,
    Prompt,
    Rollout,
    Sampling,
    SpecialTokens,
)

__all__ = [
    "Engine",
    "Finished",
    "Generated",
    "NativeEngine",
    "Prompt",
    "Rollout",
    "Sampling",
    "SpecialTokens",
    "generate",
]
