"""Small pictures for a report, stored in the page itself: each once, and not more than a limit."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from umer1.media.images import load_image
from umer1.media.sources import MediaError
from umer1.media.videos import FRAME_SUFFIXES, load_video

SIDE = 240
# frames of a video are shown as one sheet, at most four in a row
FRAMES = 8
IN_A_ROW = 4
FRAME_SIDE = 120
QUALITY = 72


class Pictures:
    """data: what relative paths are below. most: how many pictures are stored at most; the frames
    of a video are one picture.

    uris: id -> data URI. left_out: pictures that the limit kept out. unreadable: path -> why it
    could not be decoded.
    """

    def __init__(self, data: Path | None, most: int):
        self.data, self.most = data, most
        self.limit = most
        self.uris: dict[str, str] = {}
        self.left_out = 0
        self.unreadable: dict[str, str] = {}
        self._ids: dict[tuple, str | None] = {}

    def share(self, parts_left: int) -> None:
        """Until the next call no more are stored than one of `parts_left` equal parts of the rest."""
        self.limit = len(self.uris) + -(-(self.most - len(self.uris)) // parts_left)

    def of(self, item: dict) -> list[dict]:
        """What to show of an item's media: {"kind", "id", "frames": how many there are} each.

        id is None for media that are missing, unreadable or beyond the limit.
        """
        images = [("image", [path]) for path in _listed(item.get("image"))]
        frames = _listed(item.get("video"))
        return [
            {"kind": kind, "id": self._store(kind, paths), "frames": len(paths)}
            for kind, paths in [*images, *([("video", frames)] if frames else [])]
        ]

    def _store(self, kind, paths):
        key = (kind, *map(str, paths))
        if key in self._ids:
            return self._ids[key]
        if len(self.uris) >= self.limit:
            self.left_out += 1
            return None
        try:
            image = self._load(kind, paths)
        except (MediaError, OSError, ValueError) as error:
            self.unreadable[str(paths[0])] = str(error)
            self._ids[key] = None
            return None
        buffer = io.BytesIO()
        # encoded anew from pixels: no metadata and no bytes of a data set's file get into the page
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
        self._ids[key] = name = f"p{len(self.uris)}"
        self.uris[name] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        return name

    def _load(self, kind, paths):
        # as paths: nothing in a data set makes the report fetch an address
        places = [Path(path) if self.data is None else self.data / path for path in paths]
        if kind == "image":
            image = load_image(places[0])
            image.thumbnail((SIDE, SIDE))
            return image
        if len(places) == 1 and places[0].suffix.lower() not in FRAME_SUFFIXES:
            return _sheet(load_video(places[0], num_frames=FRAMES))
        if len(places) > FRAMES:
            places = [places[n] for n in np.linspace(0, len(places) - 1, FRAMES, dtype=int)]
        return _sheet([load_image(place) for place in places])


def _sheet(frames):
    for frame in frames:
        frame.thumbnail((FRAME_SIDE, FRAME_SIDE))
    width, height = (max(sizes) for sizes in zip(*(frame.size for frame in frames), strict=True))
    rows = -(-len(frames) // IN_A_ROW)
    columns = -(-len(frames) // rows)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        sheet.paste(frame, (column * width, row * height))
    return sheet


def _listed(value):
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
