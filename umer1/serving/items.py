"""What a request asks to embed, as items: checked at once, its media opened when its turn comes.

item = read_item(conversation, "messages", settings)      # nothing is opened
item = await gate.request().open_item(item)               # in the queue's order
"""

from __future__ import annotations

from collections.abc import Sequence

from umer1.processor import Processor
from umer1.prompts import Item, Medium, parse_item
from umer1.serving.errors import ApiError
from umer1.serving.media.gate import MediaGate
from umer1.serving.settings import ServerSettings


async def messages_to_item(
    messages: Sequence[dict], gate: MediaGate, where: str, settings: ServerSettings
) -> Item:
    """A conversation (see `umer1.messages`) with its media opened by `gate`. ApiError 400."""
    return await gate.request().open_item(read_item(messages, where, settings))


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
