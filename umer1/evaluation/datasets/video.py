"""Video tasks: answers about a video (ssv2), caption to video (msrvtt), moment of a video
(momentseeker).

A video is a directory of frames below `frame_root`.
"""

from umer1.evaluation.datasets.config import TaskConfig, column, join
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

SSV2_QUERY = "What actions or object interactions are being performed by the person in the video?"
MSRVTT_QUERY = "Find a video that contains the following visual content:"
MSRVTT_TARGET = "Understand the content of the provided video."
MOMENT_QUERY_TEXT = "Find the clip that corresponds to the given text:"
MOMENT_QUERY_IMAGE = "Select the video clip that aligns with the given text and image:"
MOMENT_QUERY_VIDEO = "Find the clip that corresponds to the given sentence and video segment:"
MOMENT_TARGET = "Understand the content of the provided video clip."


def load_ssv2(config: TaskConfig) -> EvalTask:
    """Rows: video_id, pos_text, neg_text (all candidates, the right one among them)."""
    task = EvalTask(config.name, "video", config.eval_type)
    instruction = config.instruction("query", SSV2_QUERY)
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        right, texts = column(row, "pos_text", where), column(row, "neg_text", where)
        if right not in texts:
            raise ValueError(f"{where}: pos_text {right!r} is not among neg_text, the candidates")
        frames = config.frames(config.path("frame_root") / str(column(row, "video_id", where)))
        names = [task.add_candidate(text, {"text": text}) for text in texts]
        task.queries.append(EvalQuery({"text": instruction, "video": frames}, names, right))
    return task


def load_msrvtt(config: TaskConfig) -> EvalTask:
    """Rows: video_id, caption. The caption's video is the label, all videos are the candidates."""
    task = EvalTask(config.name, "video", config.eval_type)
    query, target = (
        config.instruction("query", MSRVTT_QUERY),
        config.instruction("target", MSRVTT_TARGET),
    )
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        name = str(column(row, "video_id", where))
        frames = config.frames(config.path("frame_root") / name)
        task.add_candidate(name, {"text": target, "video": frames})
        item = {"text": join(query, column(row, "caption", where))}
        task.queries.append(EvalQuery(item, [name], name))
    return task


def load_momentseeker(config: TaskConfig) -> EvalTask:
    """Rows: query, input_frames (.jpg, .mp4 or ""), positive_frames and negative_frames:
    [{"output_path": ...}].

    The frames of a/b.mp4 are in frame_root/video_frames/a_b, all of them used, and the picture
    x.jpg is frame_root/query_x.jpg. Names are the paths of the rows, so that result files move
    between machines.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    target = config.instruction("target", MOMENT_TARGET)
    for number, row in enumerate(config.rows()):
        where = f"{config.name}, row {number}"
        positive, negative = (
            [column(entry, "output_path", where) for entry in column(row, key, where)]
            for key in ("positive_frames", "negative_frames")
        )
        if not positive:
            raise ValueError(f"{where}: positive_frames is empty, the query has no right answer")
        for path in positive + negative:
            task.add_candidate(path, {"text": target, "video": _clip(config, path)})
        item = _moment_query(config, column(row, "query", where), row.get("input_frames") or "")
        task.queries.append(EvalQuery(item, positive + negative, positive))
    return task


def _moment_query(config, text, source):
    if source.endswith(".mp4"):
        instruction = config.instruction("query", MOMENT_QUERY_VIDEO)
        return {"text": join(instruction, text), "video": _clip(config, source)}
    if source.endswith(".jpg"):
        instruction = config.instruction("query", MOMENT_QUERY_IMAGE)
        path = config.path("frame_root") / f"query_{source}"
        return {"text": join(instruction, text), "image": str(path)}
    return {"text": join(config.instruction("query", MOMENT_QUERY_TEXT), text)}


def _clip(config, path):
    # upstream keeps the frames of a/b.mp4 in video_frames/a_b
    name = path.replace("/", "_").split(".mp4")[0]
    directory = config.path("frame_root") / "video_frames" / name
    return config.all_frames(directory) or str(directory)
