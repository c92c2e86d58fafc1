"""One answer of a chat endpoint, read with distrust: any field of it may be missing or of another kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


class JunkError(ValueError):
    """The server said 200, and what came is no chat completion."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; `reasoning` where the server tells them apart."""

    prompt: int
    completion: int
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Attributes: content; reasoning, where the server parts it from the content, else None; finish:
    "stop", "length", …; usage: None where the server does not tell."""

    content: str
    reasoning: str | None = None
    finish: str | None = None
    usage: Usage | None = None

    @property
    def whole(self) -> str:
        return (self.reasoning or "") + self.content

    def to_json(self) -> dict[str, Any]:
        usage = self.usage and [self.usage.prompt, self.usage.completion, self.usage.reasoning]
        return {
            "content": self.content,
            "reasoning": self.reasoning,
            "finish": self.finish,
            "usage": usage,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Reply:
        usage = Usage(*row["usage"]) if row["usage"] else None
        return cls(row["content"], row["reasoning"], row["finish"], usage)


def read_reply(body: str) -> Reply:
    """The first choice of a chat completion. Raises JunkError."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise JunkError(f"no JSON: {_short(body)}") from None
    choices = content.get("choices") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise JunkError(f"no choice with a message: {_short(body)}")
    text = message.get("content")
    if isinstance(text, list):  # content parts
        parts = [part.get("text") for part in text if isinstance(part, dict)]
        text = "".join(part for part in parts if isinstance(part, str))
    # vLLM's name for it changed; other servers use either
    given = [message.get(name) for name in ("reasoning", "reasoning_content")]
    reasoning = next((value for value in given if isinstance(value, str) and value), None)
    finish = choice.get("finish_reason")
    if not isinstance(text, str | None):
        raise JunkError(f"content is no text: {_short(body)}")
    if not (text or reasoning) and finish != "content_filter":
        raise JunkError("an empty answer")
    finish = finish if isinstance(finish, str) else None
    return Reply(text or "", reasoning, finish, _usage(content.get("usage")))


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    if not (_count(prompt) and _count(completion)):
        return None
    details = value.get("completion_tokens_details")
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return Usage(prompt, completion, reasoning if _count(reasoning) and reasoning else None)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _short(body: str) -> str:
    return repr(body[:80]) + ("…" if len(body) > 80 else "")
