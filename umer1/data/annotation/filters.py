"""Which answers become training data: the paper's filters, with the reason for every one dropped.

Kinds of reasons: "format" (no <think>…</think><answer>, or more than that), "length" (reasoning
beyond 8192 tokens, or the answer was cut off), "repetition", "refused" (by the server's own filter).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields

from umer1.data.annotation.repetition import find_repetition
from umer1.data.annotation.reply import Reply

BOXES = ("strip", "keep")
KINDS = ("format", "length", "repetition", "refused")
_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")
# what a tokenizer may read as one token, and the tokens that vectors are read at
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|<gen_emb>|<disc_emb>")
_TAG = re.compile(r"</?(?:think|answer)>")
_CHARACTERS_PER_TOKEN = 4

Counter = Callable[[str], int]  # text -> tokens


@dataclass(frozen=True, slots=True)
class Filters:
    """Attributes:
    max_reasoning_tokens: the paper's bound.
    box: "strip" drops GLM's <|begin_of_box|> and <|end_of_box|>, "keep" leaves them, as the released
        data does.
    repeats, repeated_words: a unit standing so often one after the other, over so many words, is heavy
        repetition.
    """

    max_reasoning_tokens: int = 8192
    box: str = "strip"
    repeats: int = 4
    repeated_words: int = 64

    def __post_init__(self):
        if self.box not in BOXES:
            raise ValueError(f"box: got {self.box!r}, wants one of {', '.join(BOXES)}")
        for field in fields(self):
            value = getattr(self, field.name)
            least = 2 if field.name == "repeats" else 1
            if field.name != "box" and (type(value) is not int or value < least):
                raise ValueError(f"{field.name}: wants a whole number from {least}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Kept:
    """Attributes: tokens of the reasoning; counted_by "tokenizer", "server" or "characters"; had_box."""

    reasoning: str
    summary: str
    tokens: int
    counted_by: str
    had_box: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    kind: str
    detail: str


def judge(reply: Reply, filters: Filters, count: Counter | None = None) -> Kept | Dropped:
    """Keep a reply or say why not. `count` counts tokens; without it the server's numbers do."""
    if reply.finish == "content_filter":
        return Dropped("refused", "the server's content filter")
    whole = reply.whole
    if reply.finish == "length":
        return Dropped("length", "cut off at the most tokens of an answer")
    parts = _split(reply)
    if isinstance(parts, Dropped):
        return parts
    had_box = any(_BOX.search(part) for part in parts)
    texts = [_BOX.sub("", part) if filters.box == "strip" else part for part in parts]
    reasoning, summary = (text.strip() for text in texts)
    for name, text in (("reasoning", reasoning), ("summary", summary)):
        if not _BOX.sub("", text).strip():
            return Dropped("format", f"empty {name}")
        if found := _CONTROL.search(_BOX.sub("", text)):
            return Dropped("format", f"control token {found[0]}")
        if not _is_unicode(text):
            return Dropped("format", "not valid Unicode")
    tokens, counted_by = _tokens(reply, reasoning, whole, count)
    if tokens > filters.max_reasoning_tokens:
        return Dropped("length", f"reasoning of more than {filters.max_reasoning_tokens} tokens")
    for text in (reasoning, summary):
        if find_repetition(text, filters.repeats, filters.repeated_words):
            return Dropped("repetition", "the same words again and again")
    return Kept(reasoning, summary, tokens, counted_by, had_box)


def _split(reply: Reply) -> tuple[str, str] | Dropped:
    """(reasoning, summary) of `<think>…</think><answer>…</answer>`.

    The opening <think> may be missing (some chat templates write it into the prompt), and so may the
    closing </answer>. A server that parts reasoning from content leaves no <think>, perhaps no
    <answer>; nothing else may stand around them.
    """
    reasoning, content = reply.reasoning, reply.content.strip()
    if reasoning is None:
        before, closed, content = content.partition("</think>")
        if not closed:
            return Dropped("format", "no </think>")
        reasoning, content = before.strip().removeprefix("<think>"), content.strip()
        if not content.startswith("<answer>"):
            return Dropped("format", "no <answer> after </think>" if content else "empty summary")
    summary = content.removeprefix("<answer>").removesuffix("</answer>")
    if _TAG.search(reasoning) or _TAG.search(summary):
        return Dropped("format", "tags more than once or in another order")
    return reasoning, summary


def _tokens(reply: Reply, reasoning: str, whole: str, count: Counter | None) -> tuple[int, str]:
    if count is not None:
        return count(reasoning), "tokenizer"
    usage = reply.usage
    if usage and usage.reasoning is not None:
        return usage.reasoning, "server"
    if usage:  # of reasoning and answer together: shared out by their characters
        share = len(reasoning) / max(len(whole), len(reasoning))
        return round(usage.completion * share), "server"
    return -(-len(reasoning.encode()) // _CHARACTERS_PER_TOKEN), "characters"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON's escapes can make
        return False
    return True


def tokenizer_counter(path: str) -> Counter:
    """Counts with a tokenizer.json, or the one of a model directory."""
    from pathlib import Path

    from tokenizers import Tokenizer

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"tokenizer: no such file: {file} (wants a tokenizer.json)")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises a bare Exception
        raise ValueError(f"tokenizer: {file}: not a tokenizer.json ({error})") from None
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
