"""Small pictures of an index's items, encoded anew from pixels: 320 x 320 at most, clips as three
frames of 160 x 160 side by side.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
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
REMOTE = ("http://", "https://", "data:", "file:")


def has_picture(entry: dict) -> bool:
    """Whether an item of an index has something to show."""
    return bool(_source(entry)[1])


class Thumbnails:
    """JPEGs of the newest asked-for items, at most `KEPT_BYTES` of them in memory."""

    def __init__(self):
        self._kept: OrderedDict[tuple, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        # decoding takes memory and time: the engine goes first
        self._decoding = threading.BoundedSemaphore(2)

    def of(self, root: Path, entry: dict) -> bytes:
        """The JPEG of one item of an index in the directory `root`, below which relative paths of
        the entry are. ApiError 404 if the item has no picture, or it is missing or damaged."""
        key = (root, repr(_source(entry)))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._decoding:
            made = _thumbnail(root, entry)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made


def _thumbnail(root: Path, entry: dict) -> bytes:
    kind, source = _source(entry)
    if not source:
        raise ApiError(404, "this item has no picture", code="no_thumbnail")
    try:
        image = _picture(kind, source, root)
    except (MediaError, OSError) as error:
        # the reason may name a path of this machine
        raise ApiError(
            404, f"the {kind} of this item cannot be opened any more", code="no_thumbnail"
        ) from error
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _source(entry: dict) -> tuple[str, Any]:
    """("image" | "video", its path or a list of paths); the source is None where there is none."""
    if entry.get("image") or entry.get("images"):
        image = entry.get("image") or entry["images"]
        return "image", image[0] if isinstance(image, list) else image
    return "video", entry.get("video")


def _picture(kind: str, source: Any, root: Path) -> Image.Image:
    paths = [_path(one, root) for one in (source if isinstance(source, list) else [source])]
    if kind == "image":
        image = load_image(paths[0], "item")
        image.thumbnail((SIDE, SIDE))
        return image
    frames = load_video(paths[0] if len(paths) == 1 else paths, "item", num_frames=FRAMES)
    return _strip(frames)


def _path(source: Any, root: Path) -> Path:
    """A file that the index names: an absolute path, or one below `root`. Nothing is fetched."""
    if not isinstance(source, str) or source.startswith(REMOTE):
        raise MediaError("not a file")
    path = root / source
    if not Path(source).is_absolute() and not path.resolve().is_relative_to(root.resolve()):
        raise MediaError("outside of the index's data")
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
