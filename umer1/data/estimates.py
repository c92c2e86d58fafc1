"""How many tokens a record will have, without opening its media.

    counts = counted(row)                          # kept in the index: bytes of text, pictures, frames
    TokenRates().tokens(...)                       # at the released media limits
    TokenRates.of(processor.limits).tokens(...)    # at others

Rough: the numbers balance work between processes and describe batches, they limit nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from umer1.data.records import Side
    from umer1.media import MediaLimits

BYTES_PER_TOKEN = 4.0
TURN_TOKENS = 16  # the chat template around one side
IMAGE_TOKENS = 400  # 640 x 480 pixels; the released limits allow up to 3009
FRAME_TOKENS = 16  # released limit: 32 * 28 * 28 pixels, and two frames share their tokens
NUM_FRAMES = 8  # of a video that is named as a whole
PIXELS_PER_TOKEN = 28 * 28
MOST = (1 << 31) - 1


class Counts(NamedTuple):
    """What a record holds, both sides together. Whole numbers, or arrays of them for many records."""

    told: Any  # its own `num_tokens`; -1 without
    text: Any  # bytes
    images: Any
    videos: Any
    frames: Any  # of all videos


@dataclass(frozen=True, slots=True)
class TokenRates:
    """What text and media cost; the defaults are for the released tokenizer and SFT limits.

    Attributes:
        image, frame: tokens of one. num_frames: most frames of a video that are read.
    """

    bytes_per_token: float = BYTES_PER_TOKEN
    image: int = IMAGE_TOKENS
    frame: int = FRAME_TOKENS
    num_frames: int = NUM_FRAMES

    @classmethod
    def of(cls, limits: MediaLimits, bytes_per_token: float = BYTES_PER_TOKEN) -> TokenRates:
        """At these limits: of a picture of 640 x 480 pixels, and of frames of that size."""
        pixels = IMAGE_TOKENS * PIXELS_PER_TOKEN
        image = min(max(pixels, limits.image_min_pixels), limits.image_max_pixels)
        frame = min(max(pixels, limits.video_min_pixels), limits.video_max_pixels)
        sizes = (image // PIXELS_PER_TOKEN, frame // PIXELS_PER_TOKEN // 2)
        return cls(bytes_per_token, *(max(1, size) for size in sizes), limits.num_frames)

    @property
    def released(self) -> bool:
        """Whether a record's own `num_tokens` holds at these limits."""
        return (self.image, self.frame) == (IMAGE_TOKENS, FRAME_TOKENS)

    def tokens(self, counts: Counts) -> np.ndarray:
        """int32, of each record's two sides together."""
        estimated = 2 * TURN_TOKENS + self._content(counts)
        told = np.asarray(counts.told)
        tokens = np.where(told >= 0, told, estimated) if self.released else estimated
        return np.minimum(tokens, MOST).astype(np.int32)

    def side(self, side: Side) -> int:
        """Of one side and its response."""
        texts = (side.text, side.response or "")
        frames = len(side.video or ())
        counts = Counts(-1, sum(map(text_bytes, texts)), len(side.images), int(frames > 0), frames)
        return TURN_TOKENS + int(self._content(counts))

    def _content(self, counts: Counts):
        text = np.asarray(counts.text, np.int64) / self.bytes_per_token
        frames = np.minimum(
            np.asarray(counts.frames, np.int64),
            self.num_frames * np.asarray(counts.videos, np.int64),
        )
        images = np.asarray(counts.images, np.int64)
        return text.astype(np.int64) + self.image * images + self.frame * frames


def counted(row: dict[str, Any]) -> Counts:
    """What does not fit the format counts as nothing; reading the record says what is wrong with it."""
    sides = [row.get("qry"), row.get("pos")]
    if not all(isinstance(side, dict) for side in sides):
        return Counts(-1, *_fields(row))
    told = [side.get("num_tokens") for side in sides]
    known = row.get("num_tokens", sum(told) if all(type(n) is int for n in told) else None)
    told = known if type(known) is int and 0 <= known <= MOST else -1
    return Counts(told, *map(add, *map(_fields, sides)))


def text_bytes(text: Any) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _fields(row: dict[str, Any]) -> tuple[int, int, int, int]:
    """Bytes of text, images, videos, frames."""
    text = images = videos = frames = 0
    for name, value in row.items():
        if name == "conversations":
            turns = value if isinstance(value, list) else []
            text += sum(text_bytes(turn.get("value")) for turn in turns if type(turn) is dict)
        elif "image" in name:
            images += len(value) if isinstance(value, list) else bool(value)
        elif "video" in name and value and value != [""]:
            videos += 1
            frames += len(value) if isinstance(value, list) else NUM_FRAMES
        elif "video" not in name:
            text += text_bytes(value)
    return text, images, videos, frames
