"""`umer1 eval check`: what is missing is counted per task, nothing stops it, nothing is overlooked."""

import json
import shutil
from dataclasses import replace

import pytest

from umer1.evaluation.benchmark import yaml_entries
from umer1.evaluation.check import check_benchmark

NAMES = ["Breakfast", "MVBench", "ViDoRe_docvqa", "CIRR", "QVHighlight"]


@pytest.fixture
def place(mmeb_v2, tmp_path):
    """A copy of some tasks, to be damaged."""
    for name in (
        "data/image-tasks/CIRR",
        "data/video-tasks/frames/video_cls/Breakfast",
        "data/video-tasks/frames/video_mret/QVHighlight",
        "data/video-tasks/frames/video_qa/MVBench",
        "data/visdoc-tasks/ViDoRe_docvqa",
        "tables/VLM2Vec/Breakfast",
        "tables/VLM2Vec/MVBench",
        "tables/VLM2Vec/QVHighlight",
        "tables/vidore/docvqa_test_subsampled_beir",
        "tables/ziyjiang/MMEB_Test_Instruct/CIRR",
    ):
        shutil.copytree(mmeb_v2.data.parent / name, tmp_path / name)
    return tmp_path


@pytest.fixture(autouse=True)
def as_small_as_the_copy(monkeypatch):
    """The published counts, of this miniature."""
    from umer1.evaluation import benchmark

    sizes = {"Breakfast": 4, "MVBench": 20, "ViDoRe_docvqa": 2, "CIRR": 2, "QVHighlight": 3}
    known = benchmark.entries()

    shrunk = {
        name: replace(entry, queries=sizes.get(name, entry.queries))
        for name, entry in known.items()
    }
    monkeypatch.setattr(benchmark, "entries", lambda: shrunk)


def check(place, **options):
    options = {"data_basedir": place / "data", "hub_map": place / "tables", **options}
    return check_benchmark("mmeb-v2", names=options.pop("names", NAMES), **options)


def problems(found):
    return {task.name: task.problems for task in found.tasks if task.problems}


def test_a_complete_benchmark(place):
    found = check(place)
    assert found.ok
    assert found.missing == 0
    assert [task.name for task in found.tasks] == [
        "CIRR",
        "Breakfast",
        "QVHighlight",
        "MVBench",
        "ViDoRe_docvqa",
    ]
    task = found.tasks[1]
    assert (task.parser, task.modality, task.group, task.scope) == (
        "video_classification",
        "video",
        "CLS",
        "global",
    )
    assert (task.queries, task.candidates, task.expected_candidates) == (4, 10, 10)
    assert (task.media, task.missing, task.revision) == (17, 0, "VLM2Vec/Breakfast")
    assert found.lines()[-1] == "5 tasks, nothing is missing"


def test_all_that_is_missing_is_counted_at_once(place):
    frames = place / "data/video-tasks/frames"
    (place / "data/image-tasks/CIRR/0.jpg").unlink()
    shutil.rmtree(frames / "video_cls/Breakfast/clip_1")
    for frame in (frames / "video_mret/QVHighlight/vid2/positive_1").iterdir():
        frame.unlink()
    (place / "tables/VLM2Vec/MVBench/json/action_count.json").unlink()
    shutil.rmtree(place / "tables/vidore/docvqa_test_subsampled_beir/corpus")
    found = check(place)
    assert not found.ok
    told = problems(found)
    assert told["CIRR"] == [f"1 of 4 media are missing, e.g. {place}/data/image-tasks/CIRR/0.jpg"]
    assert told["Breakfast"] == [
        f"1 of 15 media are missing, e.g. {frames}/video_cls/Breakfast/clip_1"
    ]
    assert told["QVHighlight"][0].startswith("1 of 32 media are missing")
    assert told["MVBench"][0].startswith("no local table of VLM2Vec/MVBench (action_count, train)")
    assert (
        "no local table of vidore/docvqa_test_subsampled_beir (corpus, test); looked in"
        in (told["ViDoRe_docvqa"][0])
    )
    assert found.missing == 3
    assert found.to_dict()["tasks"][0]["missing"] == 1


def test_wrong_counts(place, monkeypatch):
    rows = (place / "tables/VLM2Vec/QVHighlight/data/test.jsonl").read_text().splitlines()
    (place / "tables/VLM2Vec/QVHighlight/data/test.jsonl").write_text("\n".join(rows[:2]))
    told = problems(check(place))
    assert told == {"QVHighlight": ["2 queries, the published benchmark has 3"]}


def test_an_entry_that_takes_a_part_expects_a_part(place):
    entry = yaml_entries()["video.yaml"]["QVHighlight"] | {"num_sample_per_subset": "2"}
    (place / "video.yaml").write_text(json.dumps({"QVHighlight": entry}))
    options = {"data_basedir": place / "data", "hub_map": place / "tables"}
    task = check_benchmark(place / "video.yaml", **options).tasks[0]
    assert (task.queries, task.expected_queries, task.problems) == (2, 2, [])


def test_both_published_revisions_of_a_task_are_known(place, monkeypatch):
    from umer1.evaluation import benchmark

    known = benchmark.entries()
    newer = replace(known["QVHighlight"], queries=9, later=3)
    monkeypatch.setattr(benchmark, "entries", lambda: {**known, "QVHighlight": newer})
    task = check(place, names=["QVHighlight"]).tasks[0]
    assert (task.problems, task.expected_queries) == ([], 3)
    assert task.notes == ["3 queries, as published since v2.0.1; v2.0.0 has 9"]


def test_rows_without_a_right_answer_are_noted(place):
    frames = place / "data/video-tasks/frames/video_mret/QVHighlight"
    shutil.rmtree(frames / "vid2" / "positive_1")
    task = check(place, names=["QVHighlight"]).tasks[0]
    assert task.problems == []
    assert task.notes == ["1 queries have no positive clip: they score 0"]


def test_where_the_missing_media_can_come_from(place):
    shutil.rmtree(place / "data/visdoc-tasks/ViDoRe_docvqa")
    shutil.rmtree(place / "data/video-tasks/frames/video_cls/Breakfast/clip_0")
    video = place / "data/video-tasks/videos/video_cls/Breakfast/clip_0.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
    found = {task.name: task for task in check(place).tasks}
    assert found["Breakfast"].notes == [
        "for 1 of its videos there is a video file: umer1 eval prepare takes their frames"
    ]
    assert found["ViDoRe_docvqa"].notes == [
        "its corpus table holds pictures of pages: umer1 eval prepare writes those that are missing"
    ]


def test_items_that_cannot_be_embedded(place):
    task = check(place, names=["Breakfast"], hub_map=_with_an_empty_answer(place)).tasks[0]
    assert task.problems == [
        "11 candidates, the published benchmark has 10",
        "1 items have neither text nor media, and cannot be embedded",
    ]


def _with_an_empty_answer(place):
    rows = [{"video_id": f"clip_{at}", "pos_text": "tea" if at else " "} for at in range(4)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "map.json").write_text(json.dumps({"Breakfast": str(place / "rows.jsonl")}))
    return place / "map.json"
