"""Small pictures of an index's items, encoded anew from pixels: 320 x 320 at most, clips as three
frames of 160 x 160 side by side.
"""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image

from umer1.media.images import load_image
from umer1.media.sources import MediaError
from umer1.media.videos import load_video
from umer1.serving.errors import ApiError

SIDE = 320
QUALITY = 80
KEPT_BYTES = 32 << 20
FRAMES = 3
FRAME_SIDE = 160
DECODING = 2
REMOTE = ("http://", "https://", "data:", "file:")


def kind_of(entry: dict) -> str:
    """What an item of an index shows itself by: "image" or "video", else "text"."""
    return _source(entry)[0]


class Thumbnails:
    """JPEGs of the newest asked-for items, at most `KEPT_BYTES` of them in memory."""

    def __init__(self):
        self._kept: OrderedDict[tuple, bytes] = OrderedDict()
        self._bytes = 0
        # workers are for the model's prompts too
        self._decoding = asyncio.Semaphore(DECODING)

    async def of(self, root: Path, entry: dict, in_worker: Callable[..., Awaitable]) -> bytes:
        """The JPEG of one item of an index.

        Args:
            root: the index's directory; relative paths of the entry are below it.
            in_worker: `in_worker(function, *arguments)` runs it in a thread.

        Raises ApiError 404 if the item has no picture, or it is missing or damaged.
        """
        key = (root, repr(_source(entry)))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        async with self._decoding:
            made = await in_worker(_thumbnail, root, entry)
        if key not in self._kept:
            self._kept[key] = made
            self._bytes += len(made)
        while self._bytes > KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1])
        return made


def _thumbnail(root: Path, entry: dict) -> bytes:
    kind, paths = _source(entry)
    if kind == "text":
        raise ApiError(404, "this item has no picture", code="no_thumbnail")
    try:
        image = _picture(kind, [_path(one, root) for one in paths])
    except (MediaError, OSError) as error:
        # the reason may name a path of this machine
        raise ApiError(
            404, f"the {kind} of this item cannot be opened any more", code="no_thumbnail"
        ) from error
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _source(entry: dict) -> tuple[str, list[str]]:
    """("image" | "video" | "text", the files that it names; a video's may be its frames)."""
    for key in ("image", "images", "video"):
        value = entry.get(key)
        files = [value] if isinstance(value, str) else value
        if isinstance(files, list) and files and all(map(_is_file_name, files)):
            return ("video", files) if key == "video" else ("image", files[:1])
    return "text", []


def _is_file_name(value: Any) -> bool:
    # nothing is ever fetched
    return isinstance(value, str) and bool(value) and not value.startswith(REMOTE)


def _picture(kind: str, paths: list[Path]) -> Image.Image:
    if kind == "image":
        image = load_image(paths[0], "item")
        image.thumbnail((SIDE, SIDE))
        return image
    return _strip(load_video(paths[0] if len(paths) == 1 else paths, "item", num_frames=FRAMES))


def _path(source: str, root: Path) -> Path:
    """A file that the index names: an absolute path, or one below `root`."""
    path = root / source
    if not Path(source).is_absolute() and not path.resolve().is_relative_to(root.resolve()):
        raise MediaError("outside of the index's directory")
    return path


def _strip(frames: list[Image.Image]) -> Image.Image:
    """Frames side by side; its middle is the middle frame, which is all that a square shows."""
    for frame in frames:
        frame.thumbnail((FRAME_SIDE, FRAME_SIDE))
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * width, 0))
    return strip
