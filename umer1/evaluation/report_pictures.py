"""Small pictures for a report, stored in the page itself: each once, and not more than a limit."""

import base64
import io
from pathlib import Path

import numpy as np

from umer1.media.images import load_image
from umer1.media.sources import MediaError
from umer1.media.videos import FRAME_SUFFIXES, load_video

SIDE = {"image": 256, "video": 128}
FRAMES = 8
QUALITY = 72


class Pictures:
    """data: what relative paths are below. most: how many pictures are stored at most.

    uris: id -> data URI. left_out: pictures that the limit kept out. unreadable: how many files
    could not be decoded, with one reason.
    """

    def __init__(self, data: Path | None, most: int):
        self.data, self.most = data, most
        self.uris: dict[str, str] = {}
        self.left_out = 0
        self.unreadable: dict[str, str] = {}
        self._ids: dict[tuple, list[str] | None] = {}

    def of(self, item: dict) -> list[dict]:
        """What to show of an item's media: {"kind", "ids", "of": how many frames there are} each.

        An empty `ids` stands for media that are missing, unreadable or beyond the limit.
        """
        shown = []
        for path in _listed(item.get("image")):
            shown.append({"kind": "image", "ids": self._stored([path], "image"), "of": 1})
        frames = _listed(item.get("video"))
        if frames:
            some = frames
            if len(frames) > FRAMES:
                some = [frames[n] for n in np.linspace(0, len(frames) - 1, FRAMES, dtype=int)]
            shown.append({"kind": "video", "ids": self._stored(some, "video"), "of": len(frames)})
        return shown

    def _stored(self, paths, kind):
        return [one for path in paths for one in self._store(path, kind)]

    def _store(self, path, kind):
        key = (str(path), kind)
        if key not in self._ids:
            self._ids[key] = self._load(path, kind)
        found = self._ids[key]
        if found is None:
            self.left_out += 1
        return found or []

    def _load(self, path, kind):
        if len(self.uris) >= self.most:
            return None
        # a Path: nothing in a data set makes the report fetch an address
        place = Path(path) if self.data is None else self.data / path
        try:
            if kind == "video" and place.suffix.lower() not in FRAME_SUFFIXES:
                images = load_video(place, num_frames=FRAMES)
            else:
                images = [load_image(place)]
        except (MediaError, OSError, ValueError) as error:
            self.unreadable[str(path)] = str(error)
            return []
        return [self._add(image, SIDE[kind]) for image in images]

    def _add(self, image, side):
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        # re-encoded from pixels: no metadata and no bytes of the data set's file get into the page
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
        name = f"p{len(self.uris)}"
        self.uris[name] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        return name


def _listed(value):
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
