"""MMEB-V2 as data: 81 entries, 78 of them counted, in three projects' layouts."""

from collections import Counter

import pytest
import yaml

from umer1.evaluation import load_tasks
from umer1.evaluation.benchmark import LAYOUTS, datasets, entries, yaml_entries
from umer1.evaluation.datasets.video_classification import class_names


def test_numbers_of_the_published_benchmark():
    counted = [entry for entry in entries().values() if entry.counted]
    assert (len(entries()), len(counted)) == (81, 78)
    queries = Counter()
    for entry in counted:
        queries[entry.modality] += entry.queries
    assert queries == {"image": 36000, "video": 35138, "visdoc": 12590}
    groups = Counter((entry.modality, entry.group) for entry in counted)
    assert groups == {
        ("image", "CLS"): 10,
        ("image", "QA"): 10,
        ("image", "RET"): 12,
        ("image", "VG"): 4,
        ("video", "CLS"): 5,
        ("video", "RET"): 5,
        ("video", "MRET"): 3,
        ("video", "QA"): 5,
        ("visdoc", "ViDoRe-v1"): 10,
        ("visdoc", "ViDoRe-v2"): 4,
        ("visdoc", "VisRAG"): 6,
        ("visdoc", "OOD"): 4,
    }


def test_momentseeker_has_two_published_sizes():
    entry = entries()["MomentSeeker"]
    assert (entry.queries, entry.later) == (1800, 1602)
    first = datasets()["MomentSeeker_1k8"]
    assert (first.repo, first.queries, first.later) == ("VLM2Vec/MomentSeeker_1k8", 1800, None)
    assert "MomentSeeker_1k8" not in entries()


def test_classes():
    sizes = {name: len(set(names)) for name, names in class_names().items()}
    assert sizes == {"Breakfast": 10, "HMDB51": 51, "UCF101": 101, "Kinetics-700": 700}
    assert all(isinstance(name, str) for names in class_names().values() for name in names)


def test_layouts_of_the_three_projects():
    sizes = {name: [len(file) for file in yaml_entries(name).values()] for name in LAYOUTS}
    assert sizes == {
        "vlm2vec": [36, 18, 27],
        "ume-r1": [36, 18, 24],
        "qwen3-vl-embedding": [36, 18, 24],
    }
    ours, umer1, qwen = (yaml_entries(name) for name in LAYOUTS)
    assert ours["video.yaml"]["SmthSmthV2"] == {
        "dataset_parser": "ssv2",
        "dataset_name": "SmthSmthV2",
        "video_root": "video-tasks/videos/video_cls/SSv2",
        "frame_root": "video-tasks/frames/video_cls/SSv2",
        "num_sample_per_subset": 1000,
        "max_frames_saved": 64,
        "num_frames": 8,
        "eval_type": "local",
    }
    assert (
        ours["visdoc.yaml"]["ViDoRe_esg_reports_v2"]["image_root"] == "visdoc-tasks/esg_reports_v2"
    )
    assert umer1["image.yaml"]["CIRR"]["image_root"] == "image-tasks/MMEB/"
    assert umer1["video.yaml"]["MSVD"]["frame_root"] == "video-tasks/frames/video_ret/MSVD/frames/"
    moments = umer1["video.yaml"]["Charades-STA"]
    assert moments["frame_root"] == "video-tasks/frames/video_mret/Charades-STA"
    assert moments["data_path"] == "video-tasks/data/charades_sta.jsonl"
    assert qwen["video.yaml"]["EgoSchema"]["frame_root"].endswith("video_qa/egoschema")
    assert qwen["video.yaml"]["MSVD"]["num_frames"] == 64
    assert qwen["visdoc.yaml"]["ViDoSeek-doc"]["image_root"] == "visdoc-tasks/images/ViDoSeek-doc"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bundled_entries_are_those_of_a_yaml_file(tmp_path, layout):
    """What a layout's name stands for can be written out and read as that project's own files."""
    from umer1.evaluation.datasets.loading import open_entries

    for name, content in yaml_entries(layout).items():
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
    bundled = open_entries(f"mmeb-v2:{layout}", data_basedir=tmp_path)
    written = open_entries(tmp_path)
    assert [(one.name, one.fields) for one in bundled] == [
        (one.name, one.fields) for one in written
    ]


def test_bad_names_of_the_bundled_benchmark(tmp_path):
    with pytest.raises(ValueError, match="mmeb-v2: the bundled benchmark needs data_basedir"):
        load_tasks("mmeb-v2")
    with pytest.raises(ValueError, match="got the layout 'x', need one of vlm2vec, ume-r1, qwen3"):
        load_tasks("mmeb-v2:x", data_basedir=tmp_path)
    with pytest.raises(ValueError, match="data_basedir .*: no such directory"):
        load_tasks("mmeb-v2", data_basedir=tmp_path / "none")
