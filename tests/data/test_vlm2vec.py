"""VLM2Vec's train YAML: every parser, local tables of every kind, clear errors."""

import io
import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from PIL import Image

from umer1.data import RecordError, tables
from umer1.data.vlm2vec import is_vlm2vec, open_vlm2vec

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

MMEB = [
    {"qry": f"<|image_1|>\nWhat is {n}?\n", "qry_image_path": f"images/{n}.jpg",
     "pos_text": f"answer {n}", "pos_image_path": "", "neg_text": "", "neg_image_path": ""}
    for n in range(5)
]  # fmt: skip


def picture(shade=0):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(rows):
    return pyarrow.Table.from_pylist(rows)


def save(path, rows, group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(table(rows), path, row_group_size=group)
    elif path.suffix == ".arrow":  # a stream, as the datasets library keeps it
        with pyarrow.ipc.new_stream(path, table(rows).schema) as out:
            out.write_table(table(rows), max_chunksize=group)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def open_entries(folder, local=None, **entries):
    (folder / "train.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    assert is_vlm2vec(folder / "train.yaml")
    return open_vlm2vec(folder / "train.yaml", folder, local)


def mmeb(**fields):
    return {"dataset_parser": "mmeb", "dataset_name": "TIGER-Lab/MMEB-train",
            "subset_name": "OK-VQA", "image_dir": "pictures"} | fields  # fmt: skip


LOCAL = {"TIGER-Lab/MMEB-train": "mmeb"}


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "json", "jsonl"])
def test_mmeb_from_every_kind_of_table(tmp_path, suffix):
    save(tmp_path / f"mmeb/OK-VQA/original-00000-of-00001.{suffix}", MMEB)
    save(tmp_path / f"mmeb/OK-VQA/diverse_instruction-00000.{suffix}", MMEB[:1])
    save(tmp_path / f"mmeb/Other/original-00000.{suffix}", MMEB[:1])
    store = open_entries(tmp_path, LOCAL, OKVQA=mmeb(weight=0.5))
    assert len(store) == 5
    for number in (3, 0, 4):  # out of order
        pair = store[number]
        assert pair.dataset == "OKVQA"
        assert pair.query.text == f"What is {number}?"
        assert pair.query.images == [str(tmp_path / "pictures" / "images" / f"{number}.jpg")]
        assert (pair.target.text, pair.target.images) == (f"answer {number}", [])
        assert pair.query.response is pair.target.response is None
    assert not store.has_responses
    assert f"OK-VQA/original-00000-of-00001.{suffix}: r" in store.where(3)
    assert pickle.loads(pickle.dumps(store))[4] == store[4]
    assert all(400 < length < 500 for length in store.lengths)  # a picture and a few words


def test_first_rows_over_several_files_and_the_other_split(tmp_path):
    save(tmp_path / "mmeb/OK-VQA/original-00000-of-00002.parquet", MMEB[:3])
    save(tmp_path / "mmeb/OK-VQA/original-00001-of-00002.parquet", MMEB[3:])
    save(tmp_path / "mmeb/OK-VQA/diverse_instruction-00000-of-00001.parquet", MMEB[4:])
    first = open_entries(tmp_path, LOCAL, a=mmeb(num_sample_per_subset=4))
    assert [pair.query.text for pair in first] == [f"What is {n}?" for n in range(4)]
    other = open_entries(tmp_path, LOCAL, a=mmeb(dataset_split="diverse_instruction"))
    assert [pair.query.text for pair in other] == ["What is 4?"]
    whole = open_entries(tmp_path, LOCAL, a=mmeb(num_sample_per_subset="None"))
    assert len(whole) == 5


def test_entries_are_joined_and_their_weights_kept(tmp_path):
    save(tmp_path / "mmeb/OK-VQA/original-0.parquet", MMEB)
    store = open_entries(
        tmp_path, LOCAL, a=mmeb(weight=2, num_sample_per_subset=2), b=mmeb(weight=0.5), c=mmeb()
    )
    assert store.source_names == ["a", "b", "c"]
    assert store.sources.tolist() == [0] * 2 + [1] * 5 + [2] * 5
    assert store.source_weights == {"a": 2.0, "b": 0.5, "c": 1.0}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_the_key_is_the_source_whatever_rows_name(tmp_path, suffix):
    rows = [row | {"dataset_name": "from the row", "dataset": "too"} for row in MMEB]
    save(tmp_path / f"mmeb/OK-VQA/original-0.{suffix}", rows)
    save(tmp_path / f"mmeb/Other/original-0.{suffix}", rows)
    other = mmeb(subset_name="Other")
    store = open_entries(tmp_path, LOCAL, heavy=mmeb(weight=3), other=other)
    assert store.source_names == ["heavy", "other"] == sorted({pair.dataset for pair in store})
    assert store.source_weights == {"heavy": 3.0, "other": 1.0}
    assert store.of_sources(["heavy"]).source_weights == {"heavy": 3.0}


def test_row_groups_of_all_files_share_one_limit(tmp_path, monkeypatch):
    for number in range(5):
        rows = [
            {"query": "q", "answer": "a", "image": {"bytes": picture(number), "path": None}}
        ] * 4
        save(tmp_path / f"colpali/data/train-{number}-of-5.parquet", rows)
    entry = {"dataset_parser": "vidore", "dataset_name": "colpali"}
    groups = tables._RowGroups()
    monkeypatch.setattr(tables, "_GROUPS", groups)
    monkeypatch.setattr(tables, "KEPT_GROUPS", 3)
    store = open_entries(tmp_path, colpali=entry)
    wanted = [picture(number // 4) for number in range(20)]
    assert [store[number].query.images[0] for number in range(20)] == wanted
    assert len(groups._tables) == 3
    one = max(each.nbytes for each in groups._tables.values())
    monkeypatch.setattr(tables, "KEPT_BYTES", 2 * one)
    assert [store[number].query.images[0] for number in range(20)] == wanted
    assert len(groups._tables) == 2
    assert groups._bytes == sum(each.nbytes for each in groups._tables.values()) <= 2 * one
    monkeypatch.setattr(tables, "KEPT_BYTES", 1)
    assert store[7].query.images == [wanted[7]] and len(groups._tables) == 1


def test_threads_read_one_table(tmp_path, monkeypatch):
    """As annotation does: a Parquet file cannot be read by several at once, and the count of bytes stays right."""
    rows = [{"query": "q", "answer": "a", "image": {"bytes": picture(n), "path": None}} for n in range(60)]  # fmt: skip
    save(tmp_path / "colpali/data/train-0-of-1.parquet", rows, group=3)
    groups = tables._RowGroups()
    monkeypatch.setattr(tables, "_GROUPS", groups)
    monkeypatch.setattr(tables, "KEPT_GROUPS", 2)
    store = open_entries(tmp_path, colpali={"dataset_parser": "vidore", "dataset_name": "colpali"})
    inside = []
    read = parquet.ParquetFile.read_row_group

    def watched(*arguments, **named):
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.001)
        try:
            return read(*arguments, **named)
        finally:
            inside.pop()

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", watched)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: store[n % 60].query.images[0], range(240)))
    assert found == [picture(n % 60) for n in range(240)]
    assert groups._bytes == sum(each.nbytes for each in groups._tables.values())


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_vidore_holds_its_pictures(tmp_path, suffix):
    rows = [
        {"query": f"what {n}", "answer": f"it is {n}", "prompt": "long", "source": "pdf",
         "image": {"bytes": picture(n), "path": None}}
        for n in range(5)
    ]  # fmt: skip
    save(tmp_path / f"colpali/data/train-00000-of-00001.{suffix}", rows)
    entry = {"dataset_parser": "vidore", "dataset_name": "colpali", "weight": 10}
    store = open_entries(tmp_path, colpali=entry)
    for number in (4, 1, 0):
        assert store[number].query.images == [picture(number)]
        assert store[number].query.text == f"what {number}"
        assert store[number].target.text == f"it is {number}"
    assert store.lengths.tolist() == [32 + 400 + len("what 0it is 0") // 4] * 5


def test_visrag_wraps_queries_and_pages_by_source(tmp_path):
    image = {"bytes": picture(), "path": ""}
    rows = [{"query": "q", "source": name, "image": image} for name in ("ChartQA", "unknown")]
    save(tmp_path / "visrag/train-0.parquet", rows)
    store = open_entries(tmp_path, v={"dataset_parser": "visrag", "dataset_name": "visrag"})
    assert store[0].query.text.startswith("This query is related to retrieving a relevant chart")
    assert store[0].query.text.endswith("related to the query:  q")
    assert store[0].target.text == "A statistical chart comparing values or analyzing trends."
    assert store[0].target.images == [picture()]
    assert store[1].query.text == "q"


@pytest.fixture
def videos(tmp_path):
    rows = [
        {"id": n, "video": f"clip{n}", "conversations": [
            {"from": "human", "value": "<video>\nDescribe it."}, {"from": "gpt", "value": "A cat."}]}
        for n in range(2)
    ]  # fmt: skip
    save(tmp_path / "caption.jsonl", rows)
    (tmp_path / "frames/clip0").mkdir(parents=True)
    for number in range(1, 12):
        (tmp_path / f"frames/clip0/c_{number}.jpeg").write_bytes(b"")
    return {"dataset_path": "caption.jsonl", "video_frame_basedir": "frames", "num_frames": 4,
            "dataset_name": "video_caption_300k", "num_rows": 300_000, "weight": 5}  # fmt: skip


def test_llavahound(tmp_path, videos):
    frames = [str(tmp_path / f"frames/clip0/c_{number}.jpeg") for number in (1, 4, 7, 11)]
    store = open_entries(
        tmp_path,
        caption={"dataset_parser": "llavahound_caption", **videos},
        video={"dataset_parser": "llavahound_caption", **videos, "data_mode": "video_retrieval"},
        qa={"dataset_parser": "llavahound_qa", **videos},
    )
    caption, video, qa = store[0], store[2], store[4]
    assert (caption.query.text, caption.query.video) == ("Describe it.", frames)
    assert (caption.target.text, caption.target.video) == ("A cat.", None)
    asked = "Find a video that contains the following visual content: A cat."
    assert (video.query.text, video.query.video) == (asked, None)
    assert video.target.text == "Understand the content of the provided video."
    assert video.target.video == frames
    assert qa.query.text == "Answer a question based on the content of a video. Describe it."
    # a folder that is not there stands for itself, and opening it will name it
    assert store[1].query.video == [str(tmp_path / "frames" / "clip1")]


def test_human_turns_for_sft(tmp_path):
    save(tmp_path / "mmeb/OK-VQA/original-0.parquet", MMEB)
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"a": mmeb()}))
    pair = open_vlm2vec(tmp_path / "t.yaml", tmp_path, LOCAL, human_turns=True)[1]
    assert pair.query.text == "<image>\nWhat is 1?\n<disc_emb>\n"
    assert pair.target.text == "answer 1\n<disc_emb>\n"


BAD = {
    "unknown field 'image_root'": mmeb(image_root="x"),
    "unknown field 'wieght'": mmeb(wieght=1),
    "dataset_parser: got 'mmeb2', wants one of mmeb, vidore": mmeb(dataset_parser="mmeb2"),
    "a: mmeb wants 'image_dir'": {"dataset_parser": "mmeb", "dataset_name": "x"},
    "no folder .*gone; nothing is downloaded": mmeb(dataset_name="gone"),
    "no table of split 'train' in .*OK-VQA": mmeb(dataset_split="train"),
    "no table of split 'original' in .*WebQA": mmeb(subset_name="WebQA"),
    "dataset_path: no such file": mmeb(dataset_path="gone.parquet"),
    "num_sample_per_subset: wants a number above 0, got 0": mmeb(num_sample_per_subset=0),
    "weight: wants a number above 0, got 'heavy'": mmeb(weight="heavy"),
    "data_mode: got 'all'": mmeb(data_mode="all"),
    "llavahound_qa wants 'dataset_path'": {"dataset_parser": "llavahound_qa"},
    "lacks.parquet: has no column 'pos_image_path'": mmeb(dataset_path="lacks.parquet"),
    "text.parquet: not a readable table": mmeb(dataset_path="text.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_errors_name_file_entry_and_field(tmp_path, message):
    save(tmp_path / "mmeb/OK-VQA/original-0.parquet", MMEB)
    save(tmp_path / "lacks.parquet", [{"qry": "", "qry_image_path": "", "pos_text": ""}])
    (tmp_path / "text.parquet").write_text("PAR1 or not")
    entry = BAD[message]
    with pytest.raises(RecordError, match=message):
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({"a": entry}))
        open_vlm2vec(tmp_path / "t.yaml", tmp_path, LOCAL)


def test_a_row_with_an_empty_side_is_named(tmp_path):
    rows = [MMEB[0], MMEB[1] | {"pos_text": ""}]
    save(tmp_path / "mmeb/OK-VQA/original-0.parquet", rows)
    store = open_entries(tmp_path, LOCAL, a=mmeb())
    with pytest.raises(RecordError, match="row 1: its target has neither text nor a medium"):
        store[1]


def test_a_text_table_is_rewritten_once(tmp_path):
    save(tmp_path / "mmeb/OK-VQA/original-0.parquet", MMEB)
    open_entries(tmp_path, LOCAL, a=mmeb())
    (made,) = (tmp_path / "mmeb/OK-VQA/.umer1-index").glob("*.arrow")
    changed = made.stat().st_mtime_ns
    assert len(open_entries(tmp_path, LOCAL, a=mmeb())) == 5
    assert made.stat().st_mtime_ns == changed
