"""The body of /v1/embeddings: OpenAI's fields, vLLM's chat form, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
_INPUT = {
    "anyOf": [
        _TEXT,
        _TOKENS,
        {"type": "array", "items": {"anyOf": [_TEXT, _TOKENS]}, "minItems": 1},
    ]
}
_CONVERSATION = {"type": "array", "items": {"type": "object"}, "minItems": 1}
_MESSAGES = {"anyOf": [_CONVERSATION, {"type": "array", "items": _CONVERSATION, "minItems": 1}]}


def _inputs(value: Any) -> list[str | list[int]] | None:
    """Every form of `input` as a list. One message for whatever is wrong: a union's would name each
    of a hundred thousand tokens."""
    if value is None:
        return None
    if isinstance(value, str) or _is_tokens(value):
        return [value]
    if isinstance(value, list) and value:
        wrong = [
            place
            for place, each in enumerate(value)
            if not (isinstance(each, str) or _is_tokens(each))
        ]
        if not wrong:
            return value
        got = f"{type(value[wrong[0]]).__name__} in place {wrong[0]}"
    else:
        got = "an empty list" if value == [] else type(value).__name__
    raise ValueError(f"wants a text, a list of token ids, or a list of those, got {got}")


def _conversations(value: Any) -> list[list[dict]] | None:
    if value is None:
        return None
    if _is_conversation(value):
        return [value]
    if isinstance(value, list) and value and all(map(_is_conversation, value)):
        return value
    raise ValueError("wants a list of messages (objects with role and content), or a list of those")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


class Request(BaseModel):
    """Strict: no number from a string, no NaN, no field that means nothing here."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class EmbeddingsRequest(Request):
    model: str | None = Field(None, description="The served model; may be left out.")
    input: Annotated[Any, BeforeValidator(_inputs), WithJsonSchema(_INPUT)] = Field(
        None, description="A text, token ids of this model, or a list of them."
    )
    messages: Annotated[Any, BeforeValidator(_conversations), WithJsonSchema(_MESSAGES)] = Field(
        None,
        description="A conversation of one user turn with text, pictures and clips; or several.",
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(
        None, description="The first numbers only; a size that the checkpoint was trained for."
    )
    user: str | None = Field(None, description="Accepted for OpenAI's clients; not used.")
    mode: Literal["disc", "gen", "both"] | None = Field(
        None, description="disc: one forward; gen: reason first; both. Default: the server's."
    )
    n: int = Field(1, ge=1, le=64, description="Samples of each input (gen, temperature above 0).")
    temperature: float = Field(0.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=1 << 31)
    seed: int = Field(0, ge=-(1 << 63), le=(1 << 63) - 1)
    max_tokens: int | None = Field(None, ge=1, description="Longest reasoning and summary.")
    max_think_tokens: int | None = Field(
        None, ge=0, description="After so many tokens </think> is written for the model."
    )
    return_reasoning: bool = False
    readout: Literal["at", "after"] = Field(
        "at", description='Disc vectors "at" their token, or "after" it.'
    )

    @model_validator(mode="after")
    def _one_source(self) -> EmbeddingsRequest:
        if (self.input is None) == (self.messages is None):
            raise ValueError("wants one of 'input' and 'messages'")
        return self
