"""What a request asks to embed, as items: checked at once, its media opened when its turn comes.

item = read_item(conversation, "messages", settings)      # nothing is opened
item = await open_media(item, gate)                       # in the queue's order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from umer1.processor import Processor
from umer1.prompts import Item, Medium, parse_item
from umer1.serving.errors import ApiError
from umer1.serving.settings import ServerSettings


async def messages_to_item(
    messages: Sequence[dict], gate: Any, where: str, settings: ServerSettings
) -> Item:
    """A conversation (see `umer1.messages`) with its media opened by `gate`. ApiError 400."""
    return await open_media(read_item(messages, where, settings), gate)


def read_item(source: str | Sequence[dict], where: str, settings: ServerSettings) -> Item:
    """A text or a conversation within the limits of `settings`; sources of media are still what
    the request says. ApiError 400 that starts with `where`."""
    param = where.partition("[")[0]
    try:
        item = parse_item(source, where=where)
    except (ValueError, TypeError) as error:
        raise ApiError(400, str(error), param=param, code="bad_input") from None
    if len(item.text) > settings.max_text_characters:
        raise ApiError(
            400,
            f"{where}: {len(item.text)} characters, wants at most {settings.max_text_characters}",
            param=param,
            code="text_too_long",
        )
    count = sum(_count(medium) for medium in item.media)
    if count > settings.max_media_per_item:
        raise ApiError(
            400,
            f"{where}: {count} pictures and clips, wants at most {settings.max_media_per_item}",
            param=param,
            code="too_many_media",
        )
    return item


async def open_media(item: Item, gate: Any) -> Item:
    """The item with what the gate let in in place of every source that a client wrote."""
    opened = {id(medium): await _opened(medium, gate) for medium in item.media}
    change = lambda part: opened[id(part)] if isinstance(part, Medium) else part
    return replace(
        item, media=tuple(map(change, item.media)), layout=tuple(map(change, item.layout))
    )


def text_of_tokens(ids: list[int], where: str, processor: Processor) -> str:
    """The text that token ids of this model stand for. The prompt's own tokens among them are
    letters like any other: nobody writes control tokens from outside."""
    size = len(processor.tokenizer)
    if wrong := [number for number in ids if not 0 <= number < size]:
        raise ApiError(
            400,
            f"{where}: token id {wrong[0]}, this model has 0 to {size - 1}",
            param="input",
            code="bad_token",
        )
    return processor.decode(ids)


def _count(medium: Medium) -> int:
    return len(medium.source) if isinstance(medium.source, (list, tuple)) else 1


async def _opened(medium: Medium, gate: Any) -> Medium:
    source, where = medium.source, medium.where
    if medium.kind == "video" and isinstance(source, list):
        frames = [
            await gate.open(
                "image", _url(frame, f"{where}, frame {place}"), f"{where}, frame {place}"
            )
            for place, frame in enumerate(source)
        ]
        return replace(medium, source=frames)
    return replace(medium, source=await gate.open(medium.kind, _url(source, where), where))


def _url(source: Any, where: str) -> str:
    if not isinstance(source, str):
        raise ApiError(
            400,
            f"{where}: wants a data URI as a string, got {type(source).__name__}",
            param=where.partition("[")[0].partition(",")[0],
            code="bad_media",
        )
    return source
