"""Writing pictures and frames of one directory tree, each distinct one once."""

from pathlib import Path

from PIL import Image

from umer1.data.mini.task import Part


class MediaFolder:
    """Files below `root`; names handed out are relative to it, with forward slashes."""

    def __init__(self, root: Path):
        self.root = root
        self.written: set[str] = set()

    def image(self, picture: Image.Image, name: str) -> str:
        """Write one picture: `.jpg` at high quality, `.png` fast. Returns `name`."""
        if name not in self.written:
            self.written.add(name)
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".jpg"):
                picture.save(path, quality=95, subsampling=0)
            else:
                picture.save(path, compress_level=1)
        return name

    def frames(self, part: Part, folder: str, repeat: bool) -> list[str]:
        """Write a video as `folder`/frame_0001.jpg and so on.

        Frames that are one and the same object become one file, listed as often as it is shown,
        unless `repeat` asks for a file per frame (evaluation reads directories).
        """
        names: list[str] = []
        for number, frame in enumerate(part.frames):
            if number and not repeat and frame is part.frames[number - 1]:
                names.append(names[-1])
            else:
                names.append(self.image(frame, f"{folder}/frame_{number + 1:04d}.jpg"))
        return names
