"""The stored index: made once, used while the file is the same, never half there."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from umer1.data import index as indexing
from umer1.data.estimates import TokenRates
from umer1.data.index import FileIndex
from umer1.data.scan import RecordError
from umer1.media import SFT_LIMITS, MediaLimits

RELEASED = TokenRates()


def side(text="q", **extra):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "<gen_emb>"}]
    return {"conversations": turns, **extra}


def write(path, count=5, name="a"):
    rows = [
        {"dataset_name": f"{name}{number % 2}", "qry": side(f"é {number}"), "pos": side()}
        for number in range(count)
    ]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return rows


@pytest.fixture
def scans(monkeypatch):
    counted = []
    original = indexing.scan
    monkeypatch.setattr(indexing, "scan", lambda path: counted.append(path) or original(path))
    return counted


def stored(folder):
    return sorted(p.name for p in folder.glob("*") if p.suffix in (".npy", ".json"))


def test_records_are_read_by_number(tmp_path):
    rows = write(tmp_path / "a.json")
    index = FileIndex.open(tmp_path / "a.json")
    assert [index.read(number) for number in (4, 0, 2)] == [rows[4], rows[0], rows[2]]
    assert index.sources == ["a0", "a1"]
    assert index.records["source"].tolist() == [0, 1, 0, 1, 0]
    assert index.where(3) == f"{tmp_path / 'a.json'}: record 3"


def test_a_second_opening_scans_nothing(tmp_path, scans):
    write(tmp_path / "a.json")
    FileIndex.open(tmp_path / "a.json")
    again = FileIndex.open(tmp_path / "a.json")
    assert len(scans) == 1
    assert isinstance(again.records, np.memmap)
    assert len(stored(tmp_path / ".umer1-index")) == 2


def test_a_changed_file_is_indexed_anew_and_the_old_index_goes(tmp_path, scans):
    write(tmp_path / "a.json", 5)
    write(tmp_path / "b.json", 2)
    FileIndex.open(tmp_path / "b.json")
    FileIndex.open(tmp_path / "a.json")
    write(tmp_path / "a.json", 6)
    assert len(FileIndex.open(tmp_path / "a.json")) == 6
    os.utime(tmp_path / "a.json", ns=(1, 1))
    FileIndex.open(tmp_path / "a.json")
    assert len(scans) == 4
    assert len(stored(tmp_path / ".umer1-index")) == 4  # one index of each file


def test_an_index_without_its_names_does_not_count(tmp_path, scans):
    write(tmp_path / "a.json")
    FileIndex.open(tmp_path / "a.json")
    (name,) = (tmp_path / ".umer1-index").glob("*.json")
    name.unlink()  # what a kill between the two files leaves
    assert len(FileIndex.open(tmp_path / "a.json")) == 5
    assert len(scans) == 2


def test_the_cache_takes_over_where_the_data_cannot_be_written(tmp_path, monkeypatch, scans):
    write(tmp_path / "a.json")
    (tmp_path / ".umer1-index").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert len(FileIndex.open(tmp_path / "a.json")) == 5
    assert len(scans) == 1
    assert len(stored(tmp_path / "cache" / "umer1" / "index")) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    index = FileIndex.open(tmp_path / "a.json")  # nowhere to keep it
    assert pickle.loads(pickle.dumps(index)).read(4) == index.read(4)


def test_a_pickled_index_is_a_name(tmp_path):
    rows = write(tmp_path / "a.json", 1000)
    index = FileIndex.open(tmp_path / "a.json")
    index.read(0)
    content = pickle.dumps(index)
    assert len(content) < 1000
    assert pickle.loads(content).read(999) == rows[999]


def _count(path, queue):
    queue.put(len(FileIndex.open(path)))


def test_processes_that_open_at_once_agree(tmp_path):
    write(tmp_path / "a.json", 3000)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_count, args=(tmp_path / "a.json", queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [3000] * 4
    for worker in workers:
        worker.join()
    assert len(stored(tmp_path / ".umer1-index")) == 2
    assert not list((tmp_path / ".umer1-index").glob(".a.json*"))  # nothing partial


def test_a_file_that_changes_under_an_index_is_an_error(tmp_path):
    write(tmp_path / "a.json")
    index = FileIndex.open(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(" " * 2000)
    with pytest.raises(RecordError, match="did the file change"):
        index.read(1)


def test_empty_files(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(RecordError, match="has no records"):
        FileIndex.open(tmp_path / "a.json")
    assert not list((tmp_path / ".umer1-index").glob("a.json*"))


def tokens(row, tmp_path, rates=RELEASED):
    (tmp_path / "t.json").write_text(json.dumps([row]))
    return int(FileIndex.open(tmp_path / "t.json").tokens(rates)[0])


def test_token_estimates(tmp_path):
    text = {"qry": side("x" * 391), "pos": side("y" * 31)}  # + 9 of "<gen_emb>" each
    base = 32 + (391 + 9 + 31 + 9) // 4
    assert tokens(text, tmp_path) == base
    assert tokens(text | {"qry": side("x" * 391, image="a.jpg")}, tmp_path) == base + 400
    assert tokens(text | {"pos": side("y" * 31, video=["f"] * 8)}, tmp_path) == base + 128
    assert tokens(text | {"num_tokens": 77}, tmp_path) == 77
    assert tokens({"qry": side(num_tokens=5), "pos": side(num_tokens=6)}, tmp_path) == 11
    rl = {"qry_text": "x" * 40, "qry_image": "a.jpg", "qry_video": [""], "pos_text": "",
          "pos_image": "", "pos_video": ["f", "g"]}  # fmt: skip
    assert tokens(rl, tmp_path) == 32 + 10 + 400 + 32
    for bad in ({"qry": 1, "pos": None}, {"qry": {"conversations": 3}, "pos": {}}, {}):
        assert tokens(bad, tmp_path) >= 32  # what is wrong is said when it is read


def test_token_estimates_obey_the_media_limits(tmp_path):
    assert TokenRates.of(SFT_LIMITS) == TokenRates()
    small = MediaLimits(
        image_min_pixels=784, image_max_pixels=32 * 784, video_min_pixels=784,
        video_max_pixels=4 * 784, num_frames=3, blank_image="none",
    )  # fmt: skip
    rates = TokenRates.of(small, bytes_per_token=8)
    row = {
        "qry": side("x" * 391, image=["a.jpg", "b.jpg"]),
        "pos": side("y" * 31, video=["f"] * 8),
        "num_tokens": 5000,  # of the release: other limits, other numbers
    }
    assert tokens(row, tmp_path) == 5000
    assert tokens(row, tmp_path, rates) == 32 + 440 // 8 + 2 * 32 + 3 * 2
