"""Moments of a video: clips that fit a description (QVHighlight, Charades-STA, MomentSeeker).

Names are paths below `frame_root` (upstream's are absolute), so that result files move between
machines; their two components are the last two of upstream's names.
"""

from pathlib import PurePath

from umer1.evaluation.datasets.config import TaskConfig, column
from umer1.evaluation.datasets.tables import natural_key
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

SCENE_QUERY = "Find the clip that corresponds to the described scene in the given video:"
SCENE_TARGET = "Understand the content of the provided video."
MOMENT_QUERY_TEXT = "Find the clip that corresponds to the given text:"
MOMENT_QUERY_IMAGE = "Select the video clip that aligns with the given text and image:"
MOMENT_QUERY_VIDEO = "Find the clip that corresponds to the given sentence and video segment:"
MOMENT_TARGET = "Understand the content of the provided video clip."


def load_moment_retrieval(config: TaskConfig) -> EvalTask:
    """Rows: query, video_path. The video's frames are in frame_root/<video>/query, its clips are
    the other directories there, and the one called positive… is right.

    Upstream takes clips in the file system's order, here they are in natural order. Where a video
    has several positive clips the last is the label, as upstream; where it has none, upstream keeps
    the row before's, here nothing is right: both score 0, and the task notes how many there are.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    root, clips_of = config.path("frame_root"), {}
    video_frames, clip_frames = (
        int(config.fields.get(key, 8)) for key in ("num_video_frames", "num_clip_frames")
    )
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        video = PurePath(column(row, "video_path", where)).stem
        if video not in clips_of:
            clips_of[video] = _clips(root / video)
            for clip in clips_of[video]:
                frames = config.frames(root / video / clip, count=clip_frames)
                task.add_candidate(f"{video}/{clip}", config.target(SCENE_TARGET, video=frames))
        frames = config.frames(root / video / "query", count=video_frames)
        item = config.query(SCENE_QUERY, column(row, "query", where), video=frames)
        names = [f"{video}/{clip}" for clip in clips_of[video]]
        right = [name for name in names if name.split("/")[1].startswith("positive")]
        task.queries.append(EvalQuery(item, names, right[-1] if right else []))
    if without := sum(not query.labels for query in task.queries):
        task.notes.append(f"{without} queries have no positive clip: they score 0")
    return task


def load_momentseeker(config: TaskConfig) -> EvalTask:
    """Rows: query, input_frames (.jpg, .mp4 or ""), positive_frames and negative_frames:
    [{"output_path": ...}].

    The frames of a/b.mp4 are in frame_root/video_frames/a_b, all of them used, and the picture
    x.jpg is frame_root/query_x.jpg.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        positive, negative = (
            [column(entry, "output_path", where) for entry in column(row, key, where)]
            for key in ("positive_frames", "negative_frames")
        )
        if not positive:
            raise ValueError(f"{where}: positive_frames is empty, the query has no right answer")
        names = [_frame_folder(path) for path in positive + negative]
        for name, path in zip(names, positive + negative, strict=True):
            if name not in task.candidates:
                frames = _frames(config, path)
                task.add_candidate(name, config.target(MOMENT_TARGET, video=frames))
        text, source = column(row, "query", where) or "", row.get("input_frames") or ""
        item = _moment_query(config, text, source)
        task.queries.append(EvalQuery(item, names, names[: len(positive)]))
    return task


def _clips(folder):
    if not folder.is_dir():
        return []
    found = [path.name for path in folder.iterdir() if path.name != "query" and path.is_dir()]
    return sorted(found, key=natural_key)


def _moment_query(config, text, source):
    if source.endswith(".mp4"):
        return config.query(MOMENT_QUERY_VIDEO, text, video=_frames(config, source))
    if source.endswith(".jpg"):
        path = config.path("frame_root") / f"query_{source}"
        return config.query(MOMENT_QUERY_IMAGE, text, image=str(path))
    return config.query(MOMENT_QUERY_TEXT, text)


def _frame_folder(path):
    """Upstream keeps the frames of a/b.mp4 in video_frames/a_b."""
    return "video_frames/" + path.replace("/", "_").split(".mp4")[0]


def _frames(config, path):
    directory = config.path("frame_root") / _frame_folder(path)
    return config.all_frames(directory) or str(directory)
