"""The body of /v1/chat/completions: OpenAI's fields, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from umer1.serving.routes.schemas import Request

_MESSAGES = {"type": "array", "items": {"type": "object"}, "minItems": 1}


def _conversation(value: Any) -> list[dict]:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return value
    raise ValueError("wants a list of messages (objects with role and content)")


class StreamOptions(Request):
    include_usage: bool = Field(False, description="A last chunk with the usage and no choices.")
    include_obfuscation: bool = Field(False, description="Accepted for OpenAI's clients; not used.")


class ChatRequest(Request):
    model: str | None = Field(None, description="The served model; may be left out.")
    messages: Annotated[Any, BeforeValidator(_conversation), WithJsonSchema(_MESSAGES)] = Field(
        description="One user turn with text, pictures and clips."
    )
    mode: Literal["gen", "both"] = Field(
        "gen", description="both: the vector of the prompt alone comes too."
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(1, ge=1, le=1, description="One; /v1/embeddings gives several.")
    temperature: float = Field(0.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=1 << 31)
    seed: int = Field(0, ge=-(1 << 63), le=(1 << 63) - 1)
    max_tokens: int | None = Field(None, ge=1, description="Longest reasoning and summary.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same.")
    max_think_tokens: int | None = Field(
        None, ge=0, description="After so many tokens </think> is written for the model."
    )
    readout: Literal["at", "after"] = Field(
        "at", description='Disc vectors "at" their token, or "after" it.'
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, description="The first numbers only; a size that the checkpoint was trained for."
    )
    user: str | None = Field(None, description="Accepted for OpenAI's clients; not used.")

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("wants one of 'max_tokens' and 'max_completion_tokens'")
        self.max_tokens, self.n = next(iter(limits), None), 1
        return self
