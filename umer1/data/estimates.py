"""How many tokens a record will have, without a tokenizer and without opening its media.

Rough: the numbers balance work between processes and plan batches, they limit nothing.
"""

from __future__ import annotations

from typing import Any

BYTES_PER_TOKEN = 4
TURN_TOKENS = 16  # the chat template around one side
IMAGE_TOKENS = 400  # 640 x 480 pixels; the released limits allow up to 3009
FRAME_TOKENS = 16  # released limit: 32 * 28 * 28 pixels, and two frames share their tokens
NUM_FRAMES = 8  # of a video that is named as a whole


def estimated_tokens(row: dict[str, Any]) -> int:
    """Tokens of both sides together: the record's `num_tokens`, else from its text and media.

    What does not fit the format counts as nothing; reading the record says what is wrong with it.
    """
    sides = [row.get("qry"), row.get("pos")]
    if all(isinstance(side, dict) for side in sides):
        told = [side.get("num_tokens") for side in sides]
        known = row.get("num_tokens", sum(told) if all(type(n) is int for n in told) else None)
        if type(known) is int and 0 <= known < 1 << 31:
            return known
        return 2 * TURN_TOKENS + sum(map(_fields, sides))
    return 2 * TURN_TOKENS + _fields(row)


def text_tokens(text: Any) -> int:
    if not isinstance(text, str):
        return 0
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return size // BYTES_PER_TOKEN


def _fields(row: dict[str, Any]) -> int:
    tokens = 0
    for name, value in row.items():
        if name == "conversations":
            turns = value if isinstance(value, list) else []
            tokens += sum(text_tokens(turn.get("value")) for turn in turns if type(turn) is dict)
        elif "image" in name:
            tokens += IMAGE_TOKENS * (len(value) if isinstance(value, list) else bool(value))
        elif "video" in name:
            frames = len(value) if isinstance(value, list) else NUM_FRAMES * bool(value)
            tokens += FRAME_TOKENS * frames if value != [""] else 0
        else:
            tokens += text_tokens(value)
    return tokens
