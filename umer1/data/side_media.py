"""A record's media as the processor takes them."""

from __future__ import annotations

from umer1.data.records import Side
from umer1.prompts import Medium


def side_media(side: Side, where: str = "") -> tuple[Medium, ...]:
    """In the order of their placeholders."""
    if side.video:
        return (Medium("video", side.video, where),)
    return tuple(Medium("image", path, where) for path in side.images)
