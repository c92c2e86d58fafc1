"""Writing pictures and frames of one directory tree, each distinct one once."""

from pathlib import Path

from PIL import Image


class MediaFolder:
    """Files below `root`; names handed out are relative to it, with forward slashes."""

    def __init__(self, root: Path):
        self.root = root
        self.written: set[str] = set()
        self.folders: set[Path] = set()

    def image(self, picture: Image.Image, name: str) -> str:
        """Write one picture: `.jpg` at high quality, `.png` fast. Returns `name`."""
        if name not in self.written:
            self.written.add(name)
            path = self.root / name
            if path.parent not in self.folders:
                self.folders.add(path.parent)
                path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".jpg"):
                picture.save(path, quality=95, subsampling=0)
            else:
                picture.save(path, compress_level=1)
        return name

    def directory(self, frames: list[Image.Image], folder: str) -> None:
        """Write a video as a directory with one file per frame: `folder`/frame_0001.jpg and so on."""
        for number, frame in enumerate(frames, start=1):
            self.image(frame, f"{folder}/frame_{number:04d}.jpg")

    def frame_list(self, frames: list[Image.Image], name: str) -> list[str]:
        """Write a video as files `name`_1.jpg and so on, and list them.

        A frame that is shown several times in a row is one file, named as often as it is shown.
        """
        names: list[str] = []
        for number, frame in enumerate(frames):
            if number and frame is frames[number - 1]:
                names.append(names[-1])
            else:
                names.append(self.image(frame, f"{name}_{number + 1}.jpg"))
        return names
