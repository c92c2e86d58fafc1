"""Videos to classify: a video against the names of the classes (HMDB51, UCF101, Kinetics-700,
Breakfast), or against the row's own answers (SmthSmthV2).

A video is a directory of frames below `frame_root`.
"""

from functools import cache
from pathlib import Path

from umer1.evaluation.datasets.config import TaskConfig, column, texts
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

INSTRUCTIONS = {
    "SmthSmthV2": (
        "What actions or object interactions are being performed by the person in the video?"
    ),
    "HMDB51": "What actions or objects interactions are the person in the video doing?",
    "UCF101": "What activities or sports are being performed by the person in the video?",
    "Kinetics-700": "Recognize the category of the video content.",
    # the space at the end is upstream's
    "Breakfast": "Recognize the breakfast type that the person is cooking in the video. ",
}


def load_ssv2(config: TaskConfig) -> EvalTask:
    """Rows: video_id, pos_text, neg_text (all candidates, the right one among them)."""
    task = EvalTask(config.name, "video", config.eval_type)
    strangers = 0
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        right, names = column(row, "pos_text", where), texts(row, "neg_text", where)
        strangers += right not in names
        task.add_texts(names)
        item = _query(config, row, where, INSTRUCTIONS["SmthSmthV2"])
        task.queries.append(EvalQuery(item, names, right))
    if strangers:
        task.notes.append(f"in {strangers} rows pos_text is not among neg_text: they score 0")
    return task


def load_video_classification(config: TaskConfig) -> EvalTask:
    """Rows: video_id, pos_text. Candidates are the classes that are right for some row, then the
    data set's other classes: `class_names` of the entry, or the published list of `dataset_name`.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    classes = config.fields.get("class_names") or class_names().get(config.dataset_name)
    if not classes:
        raise ValueError(
            f"{config.name}: no classes are known for dataset_name {config.dataset_name!r}, only "
            f"for {', '.join(class_names())}; give them as class_names: [...]"
        )
    default = INSTRUCTIONS.get(config.dataset_name, INSTRUCTIONS["Kinetics-700"])
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        right = column(row, "pos_text", where)
        names = task.add_texts([right])
        task.queries.append(EvalQuery(_query(config, row, where, default), names, right))
    task.add_texts(classes)
    return task


@cache
def class_names() -> dict[str, list[str]]:
    """dataset_name -> its classes, in the order in which they follow the right ones."""
    import yaml

    path = Path(__file__).with_name("class_names.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _query(config, row, where, default):
    video = str(column(row, "video_id", where))
    frames = config.frames(config.path("frame_root") / video, f"{video}.mp4")
    return config.query(default, video=frames)
