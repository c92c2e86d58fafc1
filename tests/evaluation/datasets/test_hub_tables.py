"""Tables named by a hub repository are found in every layout that keeps them, or it is said where
they were looked for.
"""

import json
import os

import pytest

from umer1.evaluation import load_tasks
from umer1.evaluation.datasets.hub import LocalTables
from umer1.evaluation.datasets.repository import find_files

REPO = "VLM2Vec/MSR-VTT"


def put(root, *names):
    """Empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


def found(root, config=None, split="test"):
    return [str(path.relative_to(root)) for path in find_files(root, config, split)]


LAYOUTS = {
    "data folder": (["data/test-00000-of-00001.parquet", "data/train-0.parquet"], None),
    "root": (["test.jsonl", "train.jsonl", "image.png"], None),
    "config folder": (["MC/test-00000-of-00001.parquet", "OE/test-00000-of-00001.parquet"], "MC"),
    "data/config": (["data/MC/test.json", "data/OE/test.json"], "MC"),
    "config file": (["queries.jsonl", "corpus.jsonl"], "queries"),
    "saved": (["data-00000-of-00001.arrow", "state.json", "dataset_info.json"], None),
    "saved, with splits": (["test/data-0.arrow", "train/data-0.arrow", "dataset_dict.json"], None),
    "saved, with configs": (["queries/data-0.arrow", "corpus/data-0.arrow"], "queries"),
    "cache": (["default/0.0.0/f1/msr-vtt-test.arrow", "default/0.0.0/f1/dataset_info.json"], None),
    "cache, config": (["MC/0.0.0/f1/x-test.arrow", "OE/0.0.0/f1/x-test.arrow"], "MC"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_a_repository(tmp_path, layout):
    names, config = LAYOUTS[layout]
    assert found(put(tmp_path, *names), config) == names[:1]


def test_shards_come_in_numerical_order_and_in_one_format(tmp_path):
    put(tmp_path, *(f"test-{at}.parquet" for at in (10, 9, 1)), "test.jsonl", "test-0.arrow")
    assert found(tmp_path) == ["test-1.parquet", "test-9.parquet", "test-10.parquet"]


def test_a_readme_says_which_files_they_are(tmp_path):
    configs = [
        {"config_name": "a", "data_files": [{"split": "test", "path": "x/*.json"}]},
        {"config_name": "b", "data_files": "y/b.json"},
        {"config_name": "c", "data_files": [{"split": "test", "path": "../*.json"}]},
    ]
    put(tmp_path, "x/2.json", "x/10.json", "y/b.json", "a/test.jsonl")
    put(tmp_path.parent, "outside.json")
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    assert found(tmp_path, "a") == ["x/2.json", "x/10.json"]
    assert found(tmp_path, "b", "train") == ["y/b.json"]
    assert found(tmp_path, "c") == []


def test_another_split_is_not_taken_instead(tmp_path):
    put(tmp_path, "data/train-00000-of-00001.parquet", "validation.jsonl")
    assert found(tmp_path) == []


def test_places_of_a_repository(tmp_path):
    for folder in (REPO, "MSR-VTT", "VLM2Vec___msr-vtt", "datasets--VLM2Vec--MSR-VTT/snapshots/c0"):
        root = tmp_path / folder.replace("/", "-")
        put(root / folder, "test_1k/test.jsonl")
        table = LocalTables((root,)).find("MSR-VTT", REPO, "test_1k", "test")
        assert table.files == [root / folder / "test_1k/test.jsonl"]
        assert table.revision == (f"{REPO}@c0" if "snapshots" in folder else REPO)


def test_below_the_data_directory_without_a_map(tmp_path):
    put(tmp_path, "annotation/VLM2Vec/MSVD/data-0.arrow", "video-tasks/VATEX/test.json")
    put(tmp_path, "image-tasks/CIRR/test-0.parquet", "image-tasks/CIRR/0.jpg")
    tables = LocalTables.open(None, tmp_path)
    for dataset, repo, config, file in (
        ("MSVD", "VLM2Vec/MSVD", None, "annotation/VLM2Vec/MSVD/data-0.arrow"),
        ("VATEX", "VLM2Vec/VATEX", None, "video-tasks/VATEX/test.json"),
        ("CIRR", "ziyjiang/MMEB_Test_Instruct", "CIRR", "image-tasks/CIRR/test-0.parquet"),
    ):
        assert tables.find(dataset, repo, config, "test").files == [tmp_path / file]


def test_a_missing_table_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"MSVD: no local table of VLM2Vec/MSVD \(test\); looked"):
        LocalTables.open(None, tmp_path).find("MSVD", "VLM2Vec/MSVD", None, "test")
    (tmp_path / "map.yaml").write_text("MSVD: nowhere")
    with pytest.raises(ValueError, match="nowhere, where the hub map says it is"):
        LocalTables.open(tmp_path / "map.yaml", tmp_path).find("MSVD", "a/b", None, "test")


PYTHON_MAP = """
import os
BASE = "tables"
OTHER = {key: 1 for key in "abc"}
EVAL_DATASET_HF_PATH = {
    # Video
    "MSVD": (os.path.join(BASE, "VLM2Vec", "MSVD"), None, "test"),
    "NExTQA": (os.path.join(BASE, "VLM2Vec", "NExTQA"), "MC", "test"),
    "ViDoRe_arxivqa": (os.path.join(BASE, "vidore", "arxivqa_test_subsampled_beir"), None, "test"),
}
"""
YAML_MAP = """
VLM2Vec/MSVD: tables/VLM2Vec/MSVD/data/test-00000-of-00001.parquet
NExTQA: [tables/VLM2Vec/NExTQA, MC]
ViDoRe_arxivqa: {path: tables/vidore/arxivqa_test_subsampled_beir, split: test}
"""


@pytest.mark.parametrize(("file", "content"), [("map.py", PYTHON_MAP), ("map.yaml", YAML_MAP)])
def test_map_files(mmeb_v2, tmp_path, file, content):
    (tmp_path / file).write_text(content)
    os.symlink(mmeb_v2.tables, tmp_path / "tables")
    tasks = load_tasks(
        "mmeb-v2",
        data_basedir=mmeb_v2.data,
        hub_map=tmp_path / file,
        names=["MSVD", "NExTQA", "ViDoRe_arxivqa"],
    )
    assert [len(task.queries) for task in tasks] == [3, 2, 2]
    assert tasks[0].revision == "VLM2Vec/MSVD"


BAD_MAPS = [
    ("map.yaml", "a: [1, 2]", "a: got .1, 2., need a path"),
    ("map.yaml", "a: {folder: x}", "need a path, .path, config, split. or"),
    ("map.yaml", "a: {path: x, config: 3}", "a: got .*need a path"),
    ("map.yaml", "- a", "got list, need names and places"),
    ("map.yaml", "a: [", "not YAML"),
    ("map.py", "import os\nos.system('true')", "no EVAL_DATASET_HF_PATH or"),
    ("map.py", "EVAL_DATASET_HF_PATH = dict(a=open('/etc/passwd').read())", "line 1: .dict"),
    ("map.py", "EVAL_DATASET_HF_PATH = {", "not Python"),
]


@pytest.mark.parametrize(("file", "content", "message"), BAD_MAPS)
def test_bad_maps_are_refused_and_python_is_not_run(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        LocalTables.open(tmp_path / file, tmp_path)
    with pytest.raises(ValueError, match="hub map .*: no such file or directory"):
        LocalTables.open(tmp_path / "none.yaml", tmp_path)


def test_page_data_before_their_correction(mmeb_v2, tmp_path):
    old = tmp_path / "VLM2Vec"
    old.mkdir()
    os.symlink(mmeb_v2.tables / "VLM2Vec" / "ViDoSeek", old / "ViDoSeek-page")
    options = {"data_basedir": mmeb_v2.data, "names": ["ViDoSeek-page"]}
    with pytest.raises(ValueError, match="no local table of VLM2Vec/ViDoSeek-page-fixed"):
        load_tasks("mmeb-v2", hub_map=tmp_path, **options)
    task = load_tasks("mmeb-v2", hub_map=tmp_path, page_data="original", **options)[0]
    assert task.revision == "VLM2Vec/ViDoSeek-page"
    fixed = load_tasks("mmeb-v2", hub_map=mmeb_v2.tables, **options)[0]
    assert fixed.revision == "VLM2Vec/ViDoSeek-page-fixed"
    with pytest.raises(ValueError, match="page_data: got 'old', need one of fixed, original"):
        load_tasks("mmeb-v2", page_data="old", **options)


def test_the_entrys_own_table_goes_before_folders_and_after_a_map_file(mmeb_v2, tmp_path):
    rows = [{"video_id": "v0", "video": "", "caption": ["mine"]}]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entry = {"dataset_parser": "msvd", "dataset_name": "MSVD", "frame_root": "f"}
    entry["data_path"] = str(tmp_path / "mine.jsonl")
    (tmp_path / "video.yaml").write_text(json.dumps({"MSVD": entry}))
    (tmp_path / "map.json").write_text(json.dumps({"MSVD": str(mmeb_v2.tables / "VLM2Vec/MSVD")}))

    def load(hub_map):
        task = load_tasks(tmp_path, data_basedir=mmeb_v2.data, hub_map=hub_map)[0]
        return len(task.queries), task.revision

    assert load(mmeb_v2.tables) == (1, str(tmp_path / "mine.jsonl"))
    assert load(tmp_path / "map.json") == (3, "VLM2Vec/MSVD")
