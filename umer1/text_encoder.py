"""Text to ids, such that text from outside cannot pass for a control token."""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from umer1.prompts import DISC_TOKEN, GEN_TOKEN

CONTROL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_CONTROL = re.compile("(" + "|".join(map(re.escape, CONTROL_TOKENS)) + ")")
# of text kept with its ids: longer text is rarely seen twice
_CACHED_LENGTH, _CACHED_TEXTS = 512, 4096


class TextEncoder:
    """A private copy of a fast tokenizer's backend in which `<|…|>` strings are letters.

    `split` takes our own text apart at control tokens; `encode` gets the stretches between them.
    Control tokens are split points of the tokenizer too, so this gives the ids of the whole string.
    """

    def __init__(self, tokenizer: Any):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise TypeError(
                f"tokenizer: wants a transformers fast tokenizer, got {type(tokenizer).__name__}"
            )
        self._ids = {
            token: backend.token_to_id(token) for token in (*CONTROL_TOKENS, GEN_TOKEN, DISC_TOKEN)
        }
        missing = [token for token, number in self._ids.items() if number is None]
        if missing:
            raise ValueError(
                f"tokenizer: has no {', '.join(missing)}; it wants Qwen2-VL's special tokens, and "
                "umer1.model.tokens.add_embedding_tokens gives it the embedding tokens"
            )
        self._tokenizer, self._splits_at_disc = _private_copy(backend)
        self._cache: dict[str, tuple[int, ...]] = {}

    def id(self, token: str) -> int:
        """Id of a control or embedding token."""
        return self._ids[token]

    def split(self, text: str) -> tuple[str | int, ...]:
        """Text of ours as stretches of plain text and control token ids."""
        return tuple(
            self._ids[part] if place % 2 else part
            for place, part in enumerate(_CONTROL.split(text))
            if part
        )

    def encode(self, text: str) -> list[int]:
        """Ids of one stretch of text, in which no control token counts."""
        if not text:
            return []
        # the instruction, from <disc_emb> on, is the same every time: it comes from the cache
        cut = text.rfind(DISC_TOKEN) if self._splits_at_disc else 0
        parts = (text[:cut], text[cut:]) if cut > 0 else (text,)
        ids: list[int] = []
        for part in parts:
            ids += self._encode(part)
        return ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _encode(self, text: str) -> tuple[int, ...]:
        if (known := self._cache.get(text)) is not None:
            return known
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if len(text) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHED_TEXTS:
                self._cache.clear()
            self._cache[text] = ids
        return ids


def _private_copy(backend: Tokenizer) -> tuple[Tokenizer, bool]:
    """The copy, and whether `<disc_emb>` is a split point whatever stands around it."""
    description = json.loads(backend.to_str())
    # a caller may have left a length limit or padding in the shared tokenizer
    description["truncation"] = description["padding"] = None
    splits = True
    for token in description["added_tokens"]:
        content = token["content"]
        if content in (GEN_TOKEN, DISC_TOKEN):
            token["special"] = False
        elif content.startswith("<|") and content.endswith("|>"):
            token["special"] = True
        if content == DISC_TOKEN:
            splits &= not (token["lstrip"] or token["rstrip"] or token["single_word"])
        else:
            splits &= not any(
                DISC_TOKEN.startswith(content[place:]) or content[place:].startswith(DISC_TOKEN)
                for place in range(1, len(content))
            )
    copy = Tokenizer.from_str(json.dumps(description))
    copy.encode_special_tokens = True
    return copy, splits
