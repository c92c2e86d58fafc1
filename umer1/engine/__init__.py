"""Generation: prompts in, tokens and vectors out."""

from umer1.engine.generation import Generated, Prompt, Rollout, generate
from umer1.engine.sampler import Sampling

__all__ = ["Generated", "Prompt", "Rollout", "Sampling", "generate"]
