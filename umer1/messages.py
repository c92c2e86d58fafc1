"""Qwen chat messages as items.

[{"role": "user", "content": [{"type": "image", "image": …}, {"type": "text", "text": …}]}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umer1.prompts import DIALECTS, SYSTEM_MESSAGE, Item, Medium, prompt_tail

# where each kind of part keeps its source: Qwen's name first, then those of transformers and of
# OpenAI's API
SOURCE_KEYS = {
    "image": ("image", "image_url", "url", "path"),
    "video": ("video", "video_url", "url", "path"),
}
# settings and the most that each may be: beyond it, a message could ask for any amount of memory
SETTING_KEYS = {
    "min_pixels": 16384 * 28 * 28,
    "max_pixels": 16384 * 28 * 28,
    "total_pixels": 128_000 * 28 * 28,
    "nframes": 768,
    "fps": 240,
}


def item_from_messages(messages: Sequence[Mapping], where: str) -> Item:
    """One user turn, after at most the default system turn, as an `Item`.

    A text that already ends with `<disc_emb>` and the instruction, as in the README of UME-R1,
    loses that ending: `render_prompt` writes it. Raises ValueError or TypeError naming `where` and
    the place in the messages.
    """
    turns = list(messages)
    if turns and turns[0].get("role") == "system":
        if _system_text(turns[0].get("content")) != SYSTEM_MESSAGE:
            raise ValueError(
                f"{where}: the system turn wants {SYSTEM_MESSAGE!r}, "
                "with which the models were trained"
            )
        turns = turns[1:]
    if len(turns) != 1 or turns[0].get("role") != "user":
        raise ValueError(
            f"{where}: wants one user turn, got the roles {[turn.get('role') for turn in messages]}"
        )
    content = turns[0].get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise TypeError(
            f"{where}, field 'content': wants a string or a list of parts, "
            f"got {type(content).__name__}"
        )
    parts = [
        _part(part, f"{where}, field 'content[{place}]'") for place, part in enumerate(content)
    ]
    return _item(_without_ending(parts))


def _item(parts: list[str | Medium]) -> Item:
    text = "".join(part for part in parts if isinstance(part, str))
    media = tuple(part for part in parts if isinstance(part, Medium))
    in_front = all(isinstance(part, Medium) for part in parts[: len(media)])
    return Item(text, media) if in_front else Item(text, media, tuple(parts))


def _part(part: Any, where: str) -> str | Medium:
    if not isinstance(part, Mapping):
        raise TypeError(f"{where}: wants a dict with 'type', got {type(part).__name__}")
    kind = str(
        part.get("type", next((key for key in ("image", "video", "text") if key in part), ""))
    )
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise TypeError(
                f"{where}: 'text' wants a string, got {type(part.get('text')).__name__}"
            )
        return part["text"]
    kind = kind.removesuffix("_url")
    if kind not in SOURCE_KEYS:
        raise ValueError(
            f"{where}: 'type' wants 'text', 'image' or 'video', got {part.get('type')!r}"
        )
    sources = [key for key in SOURCE_KEYS[kind] if part.get(key) is not None]
    if len(sources) != 1:
        raise ValueError(
            f"{where}: wants one of {', '.join(SOURCE_KEYS[kind])}, got {sources or 'none'}"
        )
    unknown = set(part) - {"type", *SOURCE_KEYS[kind], *SETTING_KEYS}
    if unknown:
        raise ValueError(
            f"{where}: unknown key {min(unknown, key=str)!r}, "
            f"wants any of {', '.join(SETTING_KEYS)}"
        )
    source = part[sources[0]]
    if sources[0].endswith("_url") and isinstance(source, Mapping):
        source = source.get("url")
    return Medium(kind, source, where, **_settings(part, kind, where))


def _settings(part: Mapping, kind: str, where: str) -> dict[str, Any]:
    """The part's settings as keywords of `Medium`."""
    given = {key: part[key] for key in SETTING_KEYS if part.get(key) is not None}
    for key, value in given.items():
        number = type(value) is int or (key == "fps" and type(value) is float)
        if not number or not 0 < value <= SETTING_KEYS[key]:
            raise ValueError(
                f"{where}: {key!r} wants a number from 1 to {SETTING_KEYS[key]}, got {value!r}"
            )
    if kind == "image" and given.keys() & {"total_pixels", "nframes", "fps"}:
        raise ValueError(f"{where}: 'total_pixels', 'nframes' and 'fps' are for videos")
    if "nframes" in given and "fps" in given:
        raise ValueError(f"{where}: wants only one of 'nframes' and 'fps'")
    if "nframes" in given:
        # whole temporal patches, as in qwen-vl-utils
        given["num_frames"] = max(2, round(given.pop("nframes") / 2) * 2)
    return given


def _system_text(content: Any) -> str | None:
    if isinstance(content, (list, tuple)) and len(content) == 1 and isinstance(content[0], Mapping):
        return content[0].get("text")
    return content


def _without_ending(parts: list[str | Medium]) -> list[str | Medium]:
    if parts and isinstance(parts[-1], str):
        for ending in _ENDINGS:
            if parts[-1].endswith(ending):
                return [*parts[:-1], parts[-1].removesuffix(ending)]
    return parts


def _endings() -> list[str]:
    asks = [prompt_tail("gen", style).partition("<|im_end|>")[0] for style in DIALECTS.values()]
    stops = [prompt_tail("disc", style) for style in DIALECTS.values()]
    return sorted(
        {*asks, *stops, *(str(stop).rstrip("\n") for stop in stops)}, key=len, reverse=True
    )


_ENDINGS = _endings()
