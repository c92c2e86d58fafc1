"""Questions about videos against their options: Video-MME, EgoSchema, NExTQA, MVBench,
ActivityNetQA.

A video is a directory of frames below `frame_root`. The data sets differ in how options are shown
in the question, embedded as candidates and named; all three count for the scores.
"""

from umer1.evaluation.datasets.config import TaskConfig, column, texts
from umer1.evaluation.datasets.tables import read_table
from umer1.evaluation.datasets.tasks import EvalQuery, EvalTask

PROMPT = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer."
)
VIDEO = "<|video_pad|>"
YES_NO = ["yes", "no"]
# subset -> folder of its videos below video_root
MVBENCH_SUBSETS = {
    "episodic_reasoning": "tvqa/frames_fps3_hq/",
    "action_sequence": "star/Charades_v1_480/",
    "action_prediction": "star/Charades_v1_480/",
    "action_antonym": "ssv2_video/",
    "fine_grained_action": "Moments_in_Time_Raw/videos/",
    "unexpected_action": "FunQA_test/test/",
    "object_existence": "clevrer/video_validation/",
    "object_interaction": "star/Charades_v1_480/",
    "object_shuffle": "perception/videos/",
    "moving_direction": "clevrer/video_validation/",
    "action_localization": "sta/sta_video/",
    "scene_transition": "scene_qa/video/",
    "action_count": "perception/videos/",
    "moving_count": "clevrer/video_validation/",
    "moving_attribute": "clevrer/video_validation/",
    "state_change": "perception/videos/",
    "fine_grained_pose": "nturgbd/",
    "character_order": "perception/videos/",
    "egocentric_navigation": "vlnqa/",
    "counterfactual_inference": "clevrer/video_validation/",
}


def load_videomme(config: TaskConfig) -> EvalTask:
    """Rows: videoID, question, options ["A. …", …], answer ("A" to "D"), question_id, domain,
    sub_category.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    for row, where, get in _rows(config):
        options, letter = texts(row, "options", where), get("answer")
        place = "ABCD".find(letter) if isinstance(letter, str) and len(letter) == 1 else -1
        right = _option(options, place, where, "answer")
        extra = {"question_id": row.get("question_id"), "video_id": get("videoID")}
        more = {"answer": letter, "answer_idx": place}
        more |= {key: row.get(key) for key in ("domain", "sub_category")}
        shown = get("question") + "\n" + "\n".join(options)
        plain = [_without_letter(option) for option in options]
        _add(config, task, str(get("videoID")), shown, options, plain, right, extra, more)
    return task


def load_egoschema(config: TaskConfig) -> EvalTask:
    """Rows: video_idx, question, option ["A. …", …], answer (a number, also as text),
    question_idx.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    for row, where, get in _rows(config):
        options, place = texts(row, "option", where), _number(row, where)
        right = _option(options, place, where, "answer")
        extra = {"question_id": row.get("question_idx"), "video_id": get("video_idx")}
        more = {"answer": right, "answer_idx": place}
        # upstream puts nothing between question and options
        between = " " if config.separate_instruction else ""
        shown = get("question") + between + " ".join(options)
        plain = [_without_letter(option) for option in options]
        _add(config, task, str(get("video_idx")), shown, options, plain, right, extra, more)
    return task


def load_nextqa(config: TaskConfig) -> EvalTask:
    """Rows: video, question, a0 to a4, answer (a number), qid, type."""
    task = EvalTask(config.name, "video", config.eval_type)
    for row, where, get in _rows(config):
        options, place = [get(f"a{number}") for number in range(5)], _number(row, where)
        plain = _option(options, place, where, "answer")
        shown, lettered = _with_letters(get("question"), options)
        names = lettered if config.separate_instruction else options
        extra = {"question_id": row.get("qid"), "video_id": get("video")}
        more = {"answer": plain, "answer_idx": place, "type": row.get("type")}
        _add(config, task, str(get("video")), shown, names, names, names[place], extra, more)
    return task


def load_mvbench(config: TaskConfig) -> EvalTask:
    """Rows of 20 tables, one per subset: video, question, candidates, answer. Frames are in
    frame_root/<subset>/<video>.

    A table of its own (`data_path`) may hold them all, with a column `subset`.
    """
    task = EvalTask(config.name, "video", config.eval_type)
    strangers = 0
    for row, where, get in _rows(config, _mvbench_rows(config)):
        options, answer = texts(row, "candidates", where), get("answer")
        subset = get("subset")
        shown, lettered = _with_letters(get("question"), options)
        # of equal options the last is right, and none if the answer is not among them
        place = max((at for at, option in enumerate(options) if option == answer), default=-1)
        strangers += place < 0
        right = lettered[place] if place >= 0 else f"(@) {answer}"
        extra = {"subset": subset, "video_id": get("video")}
        more = {"answer": right, "answer_idx": place}
        video, file = f"{subset}/{get('video')}", MVBENCH_SUBSETS.get(subset, "") + get("video")
        _add(config, task, video, shown, lettered, lettered, right, extra, more, file)
    if strangers:
        task.notes.append(
            f"in {strangers} rows the answer is not among the candidates: they score 0"
        )
    return task


def load_activitynetqa(config: TaskConfig) -> EvalTask:
    """Rows: video_name, question, answer ("yes" or "no"), question_id."""
    task = EvalTask(config.name, "video", config.eval_type)
    for row, where, get in _rows(config):
        answer = get("answer")
        if answer not in YES_NO:
            raise ValueError(f"{where}: answer: got {answer!r}, need yes or no")
        extra = {"question_id": row.get("question_id"), "video_id": get("video_name")}
        more = {"answer": answer, "answer_idx": YES_NO.index(answer)}
        shown, video = get("question") + "? (A) yes; (B) no.", f"v_{get('video_name')}"
        _add(config, task, video, shown, list(YES_NO), YES_NO, answer, extra, more)
    return task


def _rows(config, rows=None):
    for number, row in enumerate(config.rows() if rows is None else rows):
        where = f"{config.name}, row {number}"

        def get(name, row=row, where=where):
            return column(row, name, where)

        yield row, where, get


def _mvbench_rows(config):
    if config.fields.get("data_path"):
        return config.rows()
    rows = []
    for subset in MVBENCH_SUBSETS:
        rows += [{**row, "subset": subset} for row in read_table(config.table(subset).files)]
    return config.limit(rows)


def _add(config, task, video, shown, names, embedded, right, extra, more, file=None):
    """Add a question; the texts `embedded` stand for the candidates with these names. `extra` and `more` are upstream's fields of the info row."""
    frames = config.frames(config.path("frame_root") / video, file or f"{video}.mp4")
    # the two spaces that come before the question are upstream's
    prompt = PROMPT if config.separate_instruction else f"{PROMPT} Question: "
    item = config.query(prompt, shown, video=frames)
    for name, text in zip(names, embedded, strict=True):
        if name not in task.candidates:
            task.candidates[name] = {"text": text}
    query = shown if config.separate_instruction else f"{VIDEO} {item['text']}"
    info = {**extra, "query": query, **more, "qry_frame_paths": config.relative(frames)}
    if "subset" in extra:
        info["num_unique_qry_frame"] = len(set(info["qry_frame_paths"]))
    task.queries.append(EvalQuery(item, names, right, extra=info))


def _number(row, where):
    answer = column(row, "answer", where)
    try:
        return int(answer)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: answer: got {answer!r}, need the option's number") from None


def _option(options, place, where, name):
    if not 0 <= place < len(options):
        raise ValueError(f"{where}: {name} is none of the {len(options)} options")
    return options[place]


def _without_letter(option):
    """What follows "A. "; upstream would embed the last letter of an option without it."""
    return option[option.find(". ") :].strip(". ") if ". " in option else option


def _with_letters(question, options):
    """The question with its options (A), (B), … below it, and the options so lettered."""
    lettered = [f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(options)]
    return "\n".join([question, "Options:", *lettered]).rstrip(), lettered
