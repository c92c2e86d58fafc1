"""What a side is, in 8 bytes: its text and its media, not what a model is to answer to it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from umer1.data.records import Side


def side_digest(side: Side) -> int:
    """64 bits, signed: equal for equal texts with equal media (by path, or by content where a table holds
    them), in every process. The response does not count."""
    kind = "video" if side.video else "image"
    return _digest([side.text, *((kind, medium) for medium in side.video or side.images)])


def text_digest(text: str) -> int:
    """64 bits, signed, of a name; never that of a side with this text."""
    return _digest([("name", text)])


def _digest(parts: Iterable[str | tuple[str, str | bytes]]) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        kind, content = ("text", part) if isinstance(part, str) else part
        content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        digest.update(f"{kind} {len(content)} ".encode() + content)  # no part runs into the next
    return int.from_bytes(digest.digest(), "little", signed=True)
