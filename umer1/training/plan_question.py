"""What `umer1 train plan` is asked, and the lengths of sequences that the question means."""

from __future__ import annotations

from dataclasses import dataclass

from umer1.model.config import ModelConfig
from umer1.training.settings import RLConfig, SFTConfig

# characters of the released responses (query 1579 + 478, target 1711 + 487) at 4.3 to a token; system turn,
# instruction and question take about 110 tokens a side; videos have 128 visual tokens, pages up to 3009
RESPONSE_TOKENS, PROMPT_TOKENS, VISUAL_TOKENS = 495, 110, 500
ROLLOUT_TOKENS = 400  # what the released model writes on average (PLUME, table 2: 403)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be planned."""

    config: SFTConfig | RLConfig
    shapes: ModelConfig
    gpus: int
    gpu_memory: int  # bytes
    sharding: str = "ddp"
    pairs: int | None = None
    prompt_tokens: int | None = None  # of one side, visual ones included
    response_tokens: int | None = None  # of one side
    visual_tokens: int | None = None  # of a pair
    throughput: float | None = None  # tokens per second, all GPUs
    gpu: str = "h200"

    @property
    def stage(self) -> str:
        return self.config.stage

    @property
    def generative(self) -> bool:
        """False: sequences end at their `<disc_emb>` and no token is predicted (DUME)."""
        return self.stage == "rl" or self.config.generative


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens: prompt (visual ones included) and response of one side, visual ones of a pair."""

    prompt: int
    response: int
    visual: int

    @property
    def side(self) -> int:
        return self.prompt + self.response

    @property
    def visual_share(self) -> float:
        return self.visual / (2 * self.side)


def lengths(question: Question) -> tuple[Lengths, list[str]]:
    """As given, or as the release has them; and what was assumed."""
    assumed = []
    visual, prompt = question.visual_tokens, question.prompt_tokens
    response = question.response_tokens if question.generative else 0
    if response is None:
        response = RESPONSE_TOKENS
        if question.stage == "rl":
            response = min(ROLLOUT_TOKENS, question.config.max_new_tokens)
        assumed.append("length of responses: that of the released data and model")
    if visual is None:
        visual = VISUAL_TOKENS
        assumed.append(f"{VISUAL_TOKENS} visual tokens per pair")
    if prompt is None:
        prompt = PROMPT_TOKENS + visual // 2
        assumed.append(f"{PROMPT_TOKENS} text tokens in a prompt beside its media")
    return Lengths(prompt, response, visual), assumed
