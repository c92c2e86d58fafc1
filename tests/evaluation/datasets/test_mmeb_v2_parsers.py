"""Every parser of the three YAML files on tables in the hub's formats: texts, names, labels, frames.

Expected strings are those that the loaders of VLM2Vec and Qwen3-VL-Embedding make of the same rows,
without placeholders.
"""

import json

import pytest

from umer1.evaluation import load_tasks
from umer1.evaluation.datasets import PARSERS

ASK = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer."
)


@pytest.fixture(scope="module")
def load(mmeb_v2):
    def load(name, **options):
        options = {"data_basedir": mmeb_v2.data, "hub_map": mmeb_v2.tables, **options}
        return load_tasks("mmeb-v2", names=[name], **options)[0]

    return load


def frames(task):
    return [path.rsplit("_", 1)[1] for path in task.queries[0].item["video"]]


def test_every_parser_and_every_entry_has_a_task(mmeb_v2):
    tasks = load_tasks("mmeb-v2", data_basedir=mmeb_v2.data, hub_map=mmeb_v2.tables)
    assert len(tasks) == 81
    assert all(task.queries and task.candidates and task.group for task in tasks)
    from umer1.evaluation.benchmark import entries

    assert {entry.parser for entry in entries().values()} == set(PARSERS)


IMAGE_QUERIES = {
    "ImageNet-1K": "\nIdentify the object.\n\n",
    "MSCOCO_i2t": "\nIdentify the object.\n question 0\n",
    "OK-VQA": "\nIdentify the object. question 0\n",
    "MSCOCO_t2i": "Find me question 0\n",
    "VisDial": "Find me question 0\n\n",
    "CIRR": "\nFind me question 0\n",
}


@pytest.mark.parametrize("name", IMAGE_QUERIES)
def test_texts_of_image_queries(load, name):
    assert load(name).queries[0].item["text"] == IMAGE_QUERIES[name]


def test_candidates_of_image_tasks(load):
    assert load("ImageNet-A").candidates["word 0"] == {"text": "word 0"}
    plain, captioned = load("Wiki-SS-NQ"), load("WebQA")
    name = "Wiki-SS-NQ/0.jpg"
    assert plain.candidates[name]["text"] == "\nRepresent the given image.\n"
    assert load("NIGHTS").candidates["NIGHTS/0.jpg:"]["text"] == "\nRepresent the given image."
    # the same picture with another caption keeps the first one
    text = captioned.candidates["WebQA/1.jpg"]["text"]
    assert text == '\nRepresent the given image. "caption 0" of WebQA/1.jpg\n'
    # but is another candidate where objects in one picture are to be told apart
    names = [name for name in load("RefCOCO-Matching").candidates if "/1.jpg:" in name]
    assert names == [
        f'RefCOCO-Matching/1.jpg:caption {at}" of RefCOCO-Matching/1.jpg' for at in (0, 1)
    ]


VIDEO_QUERIES = {
    "SmthSmthV2": (
        "What actions or object interactions are being performed by the person in the video?"
    ),
    "HMDB51": "What actions or objects interactions are the person in the video doing?",
    "UCF101": "What activities or sports are being performed by the person in the video?",
    "K700": "Recognize the category of the video content.",
    "Breakfast": "Recognize the breakfast type that the person is cooking in the video. ",
    "MSR-VTT": "Find a video that contains the following visual content: caption 0",
    "MSVD": "Find the video snippet that corresponds to the given summary: first 0",
    "DiDeMo": "Find a video that includes the following described scenes: scenes 0",
    "VATEX": "Select a video that fits the description provided: english 0",
    "YouCook2": (
        "Find a video that demonstrates the following action while making a recipe: stir 0"
    ),
    "QVHighlight": (
        "Find the clip that corresponds to the described scene in the given video: scene 0"
    ),
    "MomentSeeker": (
        "Find the clip that corresponds to the given sentence and video segment: moment 0"
    ),
    "Video-MME": (
        f"{ASK} Question:  Which colour is 0?\nA. Red. \nB. Blue.\nC. Dark green\nD. No. 5"
    ),
    "EgoSchema": f"{ASK} Question:  What does C do?A. C cooks. B. C cleans. C. C reads.",
    "NExTQA": (
        f"{ASK} Question:  why\nOptions:\n(A) reason 0\n(B) reason 1\n(C) reason 2\n(D) reason 3\n"
        "(E) reason 4"
    ),
    "MVBench": f"{ASK} Question:  What?\nOptions:\n(A) up\n(B) down",
    "ActivityNetQA": f"{ASK} Question:  is it yes? (A) yes; (B) no.",
}


@pytest.mark.parametrize("name", VIDEO_QUERIES)
def test_texts_of_video_queries(load, name):
    assert load(name).queries[0].item["text"] == VIDEO_QUERIES[name]


VIDEO_CANDIDATES = {
    "DiDeMo": ("didemo.0", "Understand the content of the provided video."),
    "VATEX": ("x1", "Understand the content of the provided video."),
    "Charades-STA": ("vid1/positive_1", "Understand the content of the provided video."),
    "MomentSeeker": ("video_frames/movie_c", "Understand the content of the provided video clip."),
    "Video-MME": ("A. Red. ", "Red"),
    "EgoSchema": ("C. C reads.", "C reads"),
    "NExTQA": ("reason 3", "reason 3"),
    "MVBench": ("(B) down", "(B) down"),
    "ActivityNetQA": ("no", "no"),
}


@pytest.mark.parametrize("name", VIDEO_CANDIDATES)
def test_names_and_texts_of_video_candidates(load, name):
    candidate, text = VIDEO_CANDIDATES[name]
    assert load(name).candidates[candidate]["text"] == text


def test_classes_follow_the_right_answers(load):
    task = load("HMDB51")
    assert list(task.candidates)[:4] == ["wave", "dive", "ride_bike", "pour"]
    assert len(task.candidates) == 51
    assert task.queries[1].candidates == ["dive"]


def test_labels_of_video_questions_and_their_info(load):
    labels = {name: load(name).queries[1].label for name in ("Video-MME", "EgoSchema", "NExTQA")}
    assert labels == {"Video-MME": "B. Blue.", "EgoSchema": "B. C cleans.", "NExTQA": "reason 1"}
    info = load("MVBench").queries[0].info()
    assert info["label_name"] == info["answer"] == "(B) down"
    assert (info["answer_idx"], info["subset"], info["video_id"]) == (
        1,
        "episodic_reasoning",
        "a.mp4",
    )
    assert info["num_unique_qry_frame"] == 8
    folder = "video-tasks/frames/video_qa/MVBench/episodic_reasoning/a.mp4"
    assert info["qry_frame_paths"][0] == f"{folder}/frame_1.jpg"
    assert info["query"] == f"<|video_pad|> {VIDEO_QUERIES['MVBench']}"
    assert load("Video-MME").queries[2].info()["domain"] == "Knowledge"


def test_clips_are_in_natural_order_and_names_are_portable(load):
    task = load("QVHighlight")
    assert task.queries[0].candidates == [
        f"vid1/{clip}" for clip in ("negative_2", "negative_10", "positive_1")
    ]
    assert [query.label for query in task.queries] == [
        "vid1/positive_1",
        "vid2/positive_1",
        "vid1/positive_1",
    ]


def test_frames_by_task(load):
    """Of 10 and 11 frames: 8 evenly spaced, or as many as the YAML says, or all."""
    eight = [f"{number}.jpg" for number in (1, 2, 3, 4, 6, 7, 8, 10)]
    for name in ("SmthSmthV2", "Breakfast", "Video-MME", "Charades-STA"):
        assert frames(load(name)) == eight, name
    assert len(frames(load("MomentSeeker"))) == 11
    assert len(load("MSVD").candidates["v1"]["video"]) == 3


def test_pages(load):
    task = load("ViDoRe_tatdqa", prompts="vlm2vec")
    query = task.queries[0]
    assert query.item == {"text": "Find a document image that matches the given query: topic 0"}
    # ids stay the integers of the table
    assert (query.label, query.grades, list(task.candidates)) == ([13, 12], [2, 2], [13, 12, 11])
    item = task.candidates[11]
    assert item["text"] == "Understand the content of the provided document image."
    assert item["image"].endswith("visdoc-tasks/ViDoRe_tatdqa/11.png")
    assert load("ViDoRe_tatdqa").queries[0].item == {"text": " topic 0"}


def test_visrag_keeps_its_instructions_and_shortens_file_names(load):
    for name in ("VisRAG_ArxivQA", "VisRAG_PlotQA"):
        task = load(name, prompts="ume-r1")
        assert task.queries[0].item["text"].startswith("Find a document image that matches")
        page = "a page with quite a long name of over fifty letters 0.jpg"
        file = task.candidates[page]["image"].rsplit("/", 1)[1]
        # 50 letters, and how the MD5 of the whole name begins
        assert file == "a page with quite a long name of over fifty letter_b88eb0af.jpg"


def test_one_language_of_a_multilingual_set(load):
    assert len(load("ViDoRe_esg_reports_v2").queries) == 1
    assert len(load("ViDoRe_esg_reports_v2_multilingual").queries) == 2


BAD_ANSWERS = [
    ("Video-MME", {"answer": "AB"}, "row 0: answer is none of the 4 options"),
    ("EgoSchema", {"answer": "B"}, "row 0: answer: got 'B', need the option's number"),
    ("NExTQA", {"answer": 5}, "row 0: answer is none of the 5 options"),
    ("ActivityNetQA", {"answer": "maybe"}, "row 0: answer: got 'maybe', need yes or no"),
]


@pytest.mark.parametrize(("name", "fields", "message"), BAD_ANSWERS)
def test_answers_that_are_no_option_are_errors(load, mmeb_v2, tmp_path, name, fields, message):
    from umer1.evaluation.benchmark import entries
    from umer1.evaluation.datasets.repository import find_files
    from umer1.evaluation.datasets.tables import read_table

    entry = entries()[name]
    files = find_files(mmeb_v2.tables / entry.repo, entry.config, entry.split)
    (tmp_path / "bad.json").write_text(json.dumps([{**read_table(files)[0], **fields}]))
    (tmp_path / "map.json").write_text(json.dumps({name: "bad.json"}))
    with pytest.raises(ValueError, match=message):
        load(name, hub_map=tmp_path / "map.json")


def test_an_option_without_a_letter_is_embedded_whole(load, tmp_path):
    """Upstream takes what follows ". ", and of an option without it the last letter."""
    row = {"video_idx": "ego-0", "question": "?", "option": ["A. Yes.", "neither"], "answer": 1}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    (tmp_path / "map.json").write_text(json.dumps({"EgoSchema": "rows.json"}))
    task = load("EgoSchema", hub_map=tmp_path / "map.json")
    assert task.candidates == {"A. Yes.": {"text": "Yes"}, "neither": {"text": "neither"}}
    assert task.queries[0].label == "neither"


def test_an_answer_that_mvbench_does_not_offer_is_noted(load, mmeb_v2, tmp_path):
    row = {"subset": "action_count", "video": "a.mp4", "question": "?", "candidates": ["1", "2"]}
    (tmp_path / "rows.json").write_text(json.dumps([{**row, "answer": "3"}]))
    entry = {"dataset_parser": "mvbench", "data_path": str(tmp_path / "rows.json")}
    entry["frame_root"] = "video-tasks/frames/video_qa/MVBench"
    (tmp_path / "video.yaml").write_text(json.dumps({"mvbench": entry}))
    task = load_tasks(tmp_path, data_basedir=mmeb_v2.data)[0]
    assert task.notes == ["in 1 rows the answer is not among the candidates: they score 0"]
    assert task.queries[0].label == "(@) 3"


QWEN_QUERIES = {
    "MSR-VTT": ("caption 0", "Find a video that contains the following visual content."),
    "OK-VQA": ("question 0", "Identify the object."),
    "VisDial": ("question 0", "Find me"),
    "EgoSchema": ("What does C do? A. C cooks. B. C cleans. C. C reads.", ASK),
    "HMDB51": ("", "What actions or objects interactions are the person in the video doing?"),
    "ViDoRe_docvqa": ("topic 0", "Find a document image that matches the given query."),
    "MomentSeeker": (
        "moment 0",
        "Find the clip that corresponds to the given sentence and video segment.",
    ),
}


@pytest.mark.parametrize("name", QWEN_QUERIES)
def test_instructions_of_qwen3_vl_embedding(load, name):
    task = load(name, prompts="qwen3-vl-embedding")
    item = task.queries[0].item
    assert (item["text"], item["instruction"]) == QWEN_QUERIES[name]
    # candidates have no instruction
    described = {entry["text"] for entry in task.candidates.values() if set(entry) != {"text"}}
    assert described <= {""}


def test_names_and_captions_of_qwen3_vl_embedding(load):
    task = load("NExTQA", prompts="qwen3-vl-embedding")
    assert list(task.candidates)[0] == "(A) reason 0"
    assert task.queries[1].label == "(B) reason 1"
    captioned = load("EDIS", prompts="qwen3-vl-embedding")
    assert captioned.candidates["EDIS/0.jpg"]["text"] == '"caption 0" of EDIS/0.jpg'
