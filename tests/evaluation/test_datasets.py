"""Loaders: the items and names that each parser family makes of its rows, and what they say about
bad ones.
"""

import json

import numpy as np
import pytest

from umer1.evaluation import load_tasks, require_media
from umer1.evaluation.datasets import MissingMedia
from umer1.evaluation.datasets.tables import natural_key


@pytest.fixture
def tasks(benchmark_dir):
    return {task.name: task for task in load_tasks(benchmark_dir)}


def edit_entry(benchmark_dir, file, task, **fields):
    path = benchmark_dir / file
    entries = json.loads(path.read_text())
    entries[task].update(fields)
    path.write_text(json.dumps(entries))


def edit_rows(path, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    changed = change(rows)
    rows = changed if isinstance(changed, list) and changed else rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_modality_kind_scope_and_main_metric(tasks):
    seen = {t.name: (t.modality, t.kind, t.eval_type, t.main_metric) for t in tasks.values()}
    assert seen["digit"] == ("image", "one_look", "local", "hit@1")
    assert seen["sum"] == ("image", "multi_step", "local", "hit@1")
    assert seen["caption"] == ("video", None, "global", "hit@1")
    assert seen["pages"] == ("visdoc", "one_look", "global", "ndcg_linear@5")
    assert list(tasks) == [
        "digit",
        "sum",
        "find",
        "captioned",
        "match",
        "action",
        "caption",
        "moment",
        "pages",
    ]


def test_image_classification(tasks, benchmark_dir):
    query = tasks["digit"].queries[1]
    image = str(benchmark_dir / "image-tasks" / "pics" / "p1.png")
    assert query.item == {"text": "\nName the digit.\n", "image": image}
    assert query.candidates == ["one", "two", "three", "zero"]
    assert query.label == "one"
    # once per name, in the order of first mention
    assert list(tasks["digit"].candidates) == ["zero", "one", "two", "three"]
    assert tasks["digit"].candidates["two"] == {"text": "two"}


def test_image_question_puts_the_instruction_on_its_own_line(tasks):
    assert tasks["sum"].queries[0].item["text"] == "\nAdd up: all digits\n"


def test_text_to_image(tasks, benchmark_dir):
    query = tasks["find"].queries[2]
    assert query.item == {"text": "Find number 2\n"}
    assert query.candidates == ["pics/p2.png", "pics/p3.png"]
    assert query.label == "pics/p2.png"
    image = str(benchmark_dir / "image-tasks" / "pics" / "p2.png")
    assert tasks["find"].candidates["pics/p2.png"] == {"text": " A picture.\n", "image": image}


def test_the_first_caption_of_a_picture_wins(tasks):
    task = tasks["captioned"]
    assert list(task.candidates) == ["pics/p0.png", "pics/p1.png", "pics/p2.png"]
    # p1 is captioned "b" by the first row and 'a "cap"' by the second
    assert task.candidates["pics/p1.png"]["text"] == " A picture. b\n"


def test_visdial_ends_with_two_newlines(benchmark_dir):
    edit_entry(benchmark_dir, "image.yaml", "find", dataset_name="VisDial")
    task = load_tasks(benchmark_dir / "image.yaml", names=["find"])[0]
    assert task.queries[0].item["text"] == "Find number 0\n\n"


def test_image_to_image_names_are_path_and_caption(tasks):
    query = tasks["match"].queries[0]
    assert query.item["text"] == "\nMatch it now\n"
    assert query.item["image"].endswith("pics/p5.png")
    assert query.candidates == ["pics/p0.png:", "pics/p4.png:"]
    # without a caption there is no trailing newline
    assert tasks["match"].candidates["pics/p0.png:"]["text"] == " Whole."


def test_one_path_with_two_captions_is_two_candidates_in_image_to_image(benchmark_dir):
    def caption(rows):
        for row, text in zip(rows, ['"left"', "right", "left"], strict=True):
            row["tgt_text"] = [text, "other"]
            row["tgt_img_path"][0] = "pics/p0.png"

    edit_rows(benchmark_dir / "image-tasks" / "match.jsonl", caption)
    task = load_tasks(benchmark_dir, names=["match"])[0]
    assert list(task.candidates) == ["pics/p0.png:left", "pics/p4.png:other", "pics/p0.png:right"]
    assert task.candidates["pics/p0.png:left"]["text"] == ' Whole. "left"\n'


def test_instructions_of_the_entry_replace_the_loaders_own(benchmark_dir):
    for file, task in (("image.yaml", "match"), ("visdoc.yaml", "pages"), ("video.yaml", "moment")):
        edit_entry(benchmark_dir, file, task, query_instruction="Ask:", target_instruction="See.")
    tasks = {task.name: task for task in load_tasks(benchmark_dir)}
    assert tasks["match"].queries[0].item["text"] == "\nAsk: now\n"
    assert tasks["match"].candidates["pics/p0.png:"]["text"] == "See."
    assert tasks["pages"].queries[0].item == {"text": "Ask: topic 0"}
    assert tasks["pages"].candidates["page0"]["text"] == "See."
    assert tasks["moment"].queries[0].item["text"] == "Ask:"
    assert tasks["moment"].candidates["video_frames/clips_c1"]["text"] == "See."


def test_frames_are_eight_evenly_spaced_in_natural_order(tasks, benchmark_dir):
    item = tasks["action"].queries[0].item
    assert item["text"].startswith("What actions or object interactions")
    folder = benchmark_dir / "video-tasks" / "frames" / "v1"
    chosen = np.linspace(0, 10, 8, dtype=int) + 1
    assert item["video"] == [str(folder / f"frame_{number}.jpg") for number in chosen]
    assert tasks["action"].queries[1].label == "down"
    assert tasks["action"].queries[1].candidates == ["up", "down", "left"]


def test_a_video_with_fewer_frames_uses_the_frames_there_are(benchmark_dir):
    for frame in range(4, 12):
        (benchmark_dir / "video-tasks" / "frames" / "v2" / f"frame_{frame}.jpg").unlink()
    task = load_tasks(benchmark_dir, names=["action"])[0]
    assert [path[-11:] for path in task.queries[1].item["video"]] == [
        f"frame_{number}.jpg" for number in (1, 2, 3)
    ]


def test_caption_to_video(tasks):
    query = tasks["caption"].queries[1]
    assert query.item == {"text": "Find: video 2"}
    assert (query.candidates, query.label) == (["v2"], "v2")
    assert list(tasks["caption"].candidates) == ["v1", "v2", "v3"]
    assert len(tasks["caption"].candidates["v1"]["video"]) == 8


def test_moments_use_every_frame_and_several_labels(tasks):
    first, second = tasks["moment"].queries
    assert first.item["text"].startswith("Select the video clip that aligns")
    assert first.item["image"].endswith("frames/query_still.jpg")
    assert second.item == {"text": "Find the clip that corresponds to the given text: a cat"}
    assert second.label == ["video_frames/clips_c2", "video_frames/clips_c3"]
    assert second.candidates == [f"video_frames/clips_c{number}" for number in (2, 3, 1)]
    frames = tasks["moment"].candidates["video_frames/clips_c1"]["video"]
    assert len(frames) == 11
    assert "video_frames/clips_c1/frame_1.jpg" in frames[0]
    assert frames[-1].endswith("frame_11.jpg")


def test_pages_relevant_first_then_the_corpus_with_grades(tasks):
    task = tasks["pages"]
    assert list(task.candidates) == ["page3", "page1", "page0", "page4", "page2"]
    query = task.queries[0]
    assert (query.label, query.grades) == (["page3", "page1"], [2, 1])
    assert query.info() == {
        "cand_names": ["page3", "page1"],
        "label_name": ["page3", "page1"],
        "rel_scores": [2, 1],
    }
    # a grade of 0 is not relevant
    assert task.queries[2].label == ["page4"]


def test_vidore_instructions_by_prompt_set(benchmark_dir):
    ours, theirs = (
        load_tasks(benchmark_dir, names=["pages"], prompts=prompts)[0]
        for prompts in ("ume-r1", "vlm2vec")
    )
    assert ours.queries[0].item["text"] == " topic 0"
    assert ours.candidates["page0"]["text"] == ""
    expected = "Find a document image that matches the given query: topic 0"
    assert theirs.queries[0].item["text"] == expected
    text = theirs.candidates["page0"]["text"]
    assert text == "Understand the content of the provided document image."


def test_subsampling_takes_the_first_rows_and_the_string_none_means_all(benchmark_dir):
    for value, count in (("None", 4), (2, 2), ("3", 3), (None, 4)):
        edit_entry(benchmark_dir, "image.yaml", "digit", num_sample_per_subset=value)
        assert len(load_tasks(benchmark_dir, names=["digit"])[0].queries) == count


def test_sources_a_file_a_directory_or_its_parent(benchmark_dir):
    assert len(load_tasks(benchmark_dir / "video.yaml")) == 3
    assert len(load_tasks(benchmark_dir.parent)) == 9
    moved = benchmark_dir.parent / "elsewhere.yaml"
    moved.write_text((benchmark_dir / "visdoc.yaml").read_text())
    task = load_tasks(moved, data_basedir=benchmark_dir)[0]
    require_media([task])


def test_natural_order():
    names = ["frame_10.jpg", "frame_9.jpg", "frame_1.jpg"]
    assert sorted(names, key=natural_key) == ["frame_1.jpg", "frame_9.jpg", "frame_10.jpg"]


def test_missing_media_are_counted_per_task(benchmark_dir):
    (benchmark_dir / "image-tasks" / "pics" / "p0.png").unlink()
    for frame in (benchmark_dir / "video-tasks" / "frames" / "v3").iterdir():
        frame.unlink()
    with pytest.raises(MissingMedia) as caught:
        require_media(load_tasks(benchmark_dir))
    counts = caught.value.counts
    assert counts["digit"] == (1, 4)
    assert counts["caption"] == (1, 17)
    assert "pages" not in counts
    assert "digit: 1 of 4 missing, e.g. " in str(caught.value)


def test_an_answer_out_of_reach_is_noted_and_scores_nothing(benchmark_dir):
    path = benchmark_dir / "video-tasks" / "data" / "action.jsonl"
    edit_rows(path, lambda rows: rows[0].update(pos_text="sideways"))
    task = load_tasks(benchmark_dir, names=["action"])[0]
    assert task.notes == ["in 1 rows pos_text is not among neg_text: they score 0"]
    assert task.queries[0].labels == ["sideways"]
    assert "sideways" not in task.candidates


def test_unknown_parser_lists_the_known_ones(benchmark_dir):
    edit_entry(benchmark_dir, "image.yaml", "digit", dataset_parser="image_magic")
    with pytest.raises(ValueError, match="digit: unknown dataset_parser 'image_magic', known are"):
        load_tasks(benchmark_dir)


BAD_ROWS = [
    ("image-tasks/digit.jsonl", lambda rows: rows[2].update(tgt_text=[]), "digit, row 2: tgt_text"),
    (
        "image-tasks/digit.jsonl",
        lambda rows: rows[1].update(tgt_text="one"),
        "digit, row 1: tgt_text: got 'one', need a list of strings",
    ),
    (
        "video-tasks/data/action.jsonl",
        lambda rows: rows[2].update(neg_text=["up", None]),
        "action, row 2: neg_text: got .*need a list of strings",
    ),
    (
        "image-tasks/captioned.jsonl",
        lambda rows: rows[0]["tgt_text"].pop(),
        "captioned, row 0: got 2 tgt_im",
    ),
    (
        "image-tasks/sum.jsonl",
        lambda rows: rows[1].__delitem__("tgt_text"),
        "sum, row 1: no column 'tgt_",
    ),
    ("video-tasks/data/moment.jsonl", lambda rows: rows[1].update(positive_frames=[]), "row 1: po"),
    ("visdoc-tasks/pages/qrels.jsonl", lambda rows: rows[:3], "query 1: no page is relevant"),
    ("visdoc-tasks/pages/corpus.jsonl", lambda rows: [{"id": 1}], "page 0: no column 'corpus-id'"),
]


@pytest.mark.parametrize(("file", "change", "message"), BAD_ROWS)
def test_a_bad_row_is_one_error_that_names_it(benchmark_dir, file, change, message):
    edit_rows(benchmark_dir / file, change)
    with pytest.raises((ValueError, TypeError), match=message):
        load_tasks(benchmark_dir)


def test_bad_sources_are_clear_errors(benchmark_dir, tmp_path):
    with pytest.raises(ValueError, match="no task named nope; there are digit"):
        load_tasks(benchmark_dir, names=["nope"])
    with pytest.raises(ValueError, match="neither a YAML file nor a directory"):
        load_tasks(tmp_path / "nothing")
    with pytest.raises(ValueError, match="prompts: got 'x'"):
        load_tasks(benchmark_dir, prompts="x")
    edit_entry(benchmark_dir, "image.yaml", "digit", data_path=None)
    with pytest.raises(ValueError, match="digit: no local table of digit .*say with --hub-map"):
        load_tasks(benchmark_dir)
    (benchmark_dir / "image-tasks" / "digit.jsonl").write_text('{"a": 1}\n[1]\n')
    edit_entry(benchmark_dir, "image.yaml", "digit", data_path="image-tasks/digit.jsonl")
    with pytest.raises(TypeError, match=r"digit.jsonl:2: got list, need an object"):
        load_tasks(benchmark_dir)
    (benchmark_dir / "image.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="image.yaml: not YAML"):
        load_tasks(benchmark_dir)
    (benchmark_dir / "image.yaml").write_text("../up: {dataset_parser: image_cls}")
    with pytest.raises(ValueError, match="cannot be a task name"):
        load_tasks(benchmark_dir)
