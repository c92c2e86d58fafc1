"""Captions against videos: MSR-VTT, MSVD, DiDeMo, VATEX, YouCook2.

Each caption's own video is its label, all videos of the table are the candidates. A video is a
directory of frames below `frame_root`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from umer1.evaluation.datasets.config import TaskConfig, column, texts
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

TARGET = "Understand the content of the provided video."


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a data set keeps a video's name, its caption, and the name of its file.

    video: the row's path or name of the video file; only its last component counts. suffix: what
    the file's name adds to it.
    """

    instruction: str
    name: str
    caption: str
    video: str
    suffix: str = ""
    first: bool = False
    from_path: bool = False


MSRVTT = Columns(
    "Find a video that contains the following visual content:", "video_id", "caption", "video"
)
MSVD = Columns(
    "Find the video snippet that corresponds to the given summary:",
    name="video_id",
    caption="caption",
    video="video",
    first=True,
)
DIDEMO = Columns(
    "Find a video that includes the following described scenes:",
    name="video",
    caption="caption",
    video="video",
    from_path=True,
)
VATEX = Columns(
    "Select a video that fits the description provided:",
    name="videoID",
    caption="enCap",
    video="videoID",
    suffix=".mp4",
    first=True,
)
YOUCOOK2 = Columns(
    "Find a video that demonstrates the following action while making a recipe:",
    name="id",
    caption="sentence",
    video="video_path",
)


def caption_loader(columns: Columns) -> Callable[[TaskConfig], EvalTask]:
    """The loader of a data set with these columns.

    first: the caption is the first of a list. from_path: the name is that of the file, without its
    ending.
    """

    def load(config: TaskConfig) -> EvalTask:
        task = EvalTask(config.name, "video", config.eval_type)
        for number, row in enumerate(config.rows()):
            where = f"{config.name}, row {number}"
            name = column(row, columns.name, where)
            take = texts if columns.first else column
            caption = take(row, columns.caption, where)
            name = PurePath(name).stem if columns.from_path else str(name)
            caption = caption[0] if columns.first else caption
            if name not in task.candidates:
                file = PurePath(str(row.get(columns.video) or name)).name + columns.suffix
                frames = config.frames(config.path("frame_root") / name, file)
                task.add_candidate(name, config.target(TARGET, video=frames))
            item = config.query(columns.instruction, caption)
            task.queries.append(EvalQuery(item, [name], name))
        return task

    return load
