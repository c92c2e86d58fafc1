"""What the released loaders write on their first run: page pictures and frames of videos.

    prepare("mmeb-v2", data_basedir="MMEB-V2", names=["ViDoRe_arxivqa"])

Only what is missing is written, each file or folder beside its place and then renamed: a killed run
goes on where it stopped. Frames are chosen as upstream chooses them; their JPEG bytes are those of
Pillow, not of ffmpeg or OpenCV.
"""

import io
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from umer1.evaluation.datasets.config import TaskConfig
from umer1.evaluation.datasets.loading import load_task, open_entries
from umer1.evaluation.datasets.media import missing_media
from umer1.evaluation.datasets.tables import read_pictures
from umer1.evaluation.datasets.visdoc import PAGE_FILES
from umer1.progress import progress_bar

# parsers that write 0000.jpeg, 0001.jpeg and so on; the others write frame_0001.jpg
QUESTIONS = ("videomme", "egoschema", "nextqa", "mvbench", "activitynetqa")


def prepare(
    source: str | Path,
    *,
    data_basedir: str | Path | None = None,
    names: Iterable[str] | None = None,
    hub_map: str | Path | None = None,
    page_data: str = "fixed",
    progress: bool = True,
) -> dict[str, dict[str, int]]:
    """Task -> {"pages": written, "videos": whose frames were written}; arguments as for
    `load_tasks`.

    Raises ValueError: a table is missing or malformed, a picture or video cannot be decoded, or a
    name in a table leads out of the media folder.
    """
    configs = open_entries(
        source, data_basedir=data_basedir, names=names, hub_map=hub_map, page_data=page_data
    )
    written = {}
    with progress_bar("prepare", len(configs), unit="tasks", show=progress) as bar:
        for config in configs:
            task = load_task(config)
            pages = 0
            if config.fields["dataset_parser"] in PAGE_FILES and missing_media(task)[0]:
                pages = write_pages(config)
            written[config.name] = {"pages": pages, "videos": write_frames(config)}
            bar.advance(1)
    return written


def write_pages(config: TaskConfig) -> int:
    """Save the pictures of the corpus table that `image_root` lacks; how many were written."""
    root, page_file = config.path("image_root"), PAGE_FILES[config.fields["dataset_parser"]]
    written = 0
    for page, picture in read_pictures(config.table("corpus").files, "corpus-id", "image"):
        path = _inside(root, page_file(page), config.name)
        if path.is_file():
            continue
        if picture is None:
            raise ValueError(f"{config.name}: page {page!r} has no picture in its table")
        _save(picture, path, f"{config.name}, page {page!r}")
        written += 1
    return written


def write_frames(config: TaskConfig) -> int:
    """Take frames of the videos whose frame directory is empty and whose file is there; how many
    videos these were. The task must have been loaded.
    """
    most = int(config.fields.get("max_frames_saved", 64))
    questions = config.fields["dataset_parser"] in QUESTIONS
    choose = _every if questions else _spread
    name = "{:04d}.jpeg" if questions else "frame_{:04d}.jpg"
    written = 0
    for directory, video in config.videos.items():
        if not video.is_file():
            continue
        root = config.path("frame_root")
        _inside(root, os.path.relpath(directory, root), config.name)
        frames = _decode(video, lambda total, _: choose(total, most), f"{config.name}, {video}")
        if not frames:
            raise ValueError(f"{config.name}: {video} has no frames")
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
        temporary.mkdir(parents=True)
        try:
            for number, frame in enumerate(frames, start=0 if questions else 1):
                frame.save(temporary / name.format(number), quality=95)
            os.replace(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        written += 1
    return written


def _spread(total, most):
    """As VLM2Vec's `save_frames`: all, or `most` at equal distances from the first."""
    if total <= most:
        return list(range(total))
    return [math.floor(number * total / most) for number in range(most)]


def _every(total, most):
    """As the loaders of video questions: every so many-th frame, from the first."""
    step = max(1, total // most)
    return list(range(0, total, step))[:most]


def _decode(video, places, where):
    from umer1.media.decoders import video_decoder
    from umer1.media.images import max_pixels

    decode = video_decoder()
    if decode is None:
        raise ValueError(f"{where}: decoding a video needs torchcodec or av (pip install av)")
    with open(video, "rb") as file:
        try:
            return decode(file, places, max_pixels())
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: {error}") from None


def _save(picture, path, where):
    from PIL import Image

    from umer1.media import load_image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{where}: {path.name!r} has no ending that names a picture format")
    content = io.BytesIO()
    load_image(picture, where).save(content, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.getbuffer())
    os.replace(temporary, path)


def _inside(root: Path, name: str, task: str) -> Path:
    """A name from a table as a path below `root`."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{task}: the table's name {name!r} leads out of {root}")
    return root / name
