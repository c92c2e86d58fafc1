"""Files become the same shards for everyone, and rows become items."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1.bulk import inputs
from umer1.bulk.rows import item_of_row

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def _rows(shards):
    return [row for shard in shards for row in inputs.rows(shard)]


def test_shards_cut_files_at_rows_and_number_them_all(collection):
    scans = [inputs.scan(path, 2) for path in collection]
    assert [scan.items for scan in scans] == [5, 4]
    shards = inputs.shards(scans)
    assert [(shard.number, shard.first, shard.items) for shard in shards] == [
        (0, 0, 2), (1, 2, 2), (2, 4, 1), (3, 5, 2), (4, 7, 2),
    ]  # fmt: skip
    read = _rows(shards)
    assert [where.rpartition("/")[2] for where, _ in read] == [
        "one.jsonl:1", "one.jsonl:2", "one.jsonl:4", "one.jsonl:5", "one.jsonl:6",
        "two.parquet, row 0", "two.parquet, row 1", "two.parquet, row 2", "two.parquet, row 3",
    ]  # fmt: skip
    pairs = [item_of_row(row, where, Path("/d")) for where, row in read]
    assert pairs[:5] == [
        ("a", {"text": "a"}),
        ("b", {"text": "bee"}),
        ("c.png", {"image": "/d/c.png"}),
        ("é", {"text": "é"}),
        ("e", {"text": "e"}),
    ]
    assert pairs[5:7] == [("10", {"text": "p"}), ("11", {"image": b"png"})]
    assert pairs[7:] == [("r", {"text": "r"}), ("13", {"text": "s"})]


@settings(max_examples=30, deadline=None)
@given(
    lines=st.lists(st.one_of(TEXT.map(json.dumps), st.sampled_from(["", " ", "\t"])), max_size=12),
    ending=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    size=st.integers(1, 5),
)
def test_any_lines_are_read_once_and_in_order(tmp_path_factory, lines, ending, last, size):
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    path.write_bytes((ending.join(lines) + ending * last).encode())
    wanted = [(f"{path}:{n}", json.loads(line)) for n, line in enumerate(lines, 1) if line.strip()]
    shards = inputs.shards([inputs.scan(path, size)])
    assert _rows(shards) == wanted
    assert all(shard.items == size for shard in shards[:-1])


def test_parquet_shards_cross_row_groups(tmp_path):
    path = tmp_path / "x.parquet"
    texts = [f"t{number}" for number in range(23)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=5)
    shards = inputs.shards([inputs.scan(path, 7)])
    assert [row["text"] for _, row in _rows(shards)] == texts
    assert [shard.items for shard in shards] == [7, 7, 7, 2]


def test_a_changed_file_is_another_content(tmp_path):
    path, table = tmp_path / "x.jsonl", tmp_path / "x.parquet"
    path.write_text('"a"\n"b"\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), table)
    before = [inputs.scan(each, 2).digest for each in (path, table)]
    assert before == [inputs.scan(each, 2).digest for each in (path, table)]
    path.write_text('"a"\n"c"\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "c"]}), table)
    after = [inputs.scan(each, 2).digest for each in (path, table)]
    assert before[0] != after[0] and before[1] != after[1]


def test_directories_stand_for_their_tables_or_their_media(tmp_path, collection):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("b.png", "a.jpg", "c.MP4", "note.txt"):
        (pictures / name).touch()
    assert inputs.find_sources([tmp_path], tmp_path / "out") == collection
    [found] = inputs.find_sources([pictures], tmp_path / "out")
    path = inputs.as_file(found, tmp_path / "lists")
    assert inputs.as_file(path, tmp_path / "lists") == path
    names = [str(pictures / name) for name in ("a.jpg", "b.png", "c.MP4")]
    kinds = zip(names, ("image", "image", "video"))
    rows = [row for _, row in _rows(inputs.shards([inputs.scan(path, 9)]))]
    assert rows == [{"id": name, kind: name} for name, kind in kinds]


def test_hidden_folders_and_the_output_are_no_input(tmp_path):
    source = tmp_path / ".data" / "in"  # what the source itself lies in does not matter
    output = source / "deep" / "out"
    for folder in (source, source / ".cache" / "deeper", source / "deep", output / "shards"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.jsonl").touch()
        (folder / ".b.jsonl").touch()
    wanted = [source / "a.jsonl", source / "deep" / "a.jsonl"]
    assert inputs.find_sources([source], output) == wanted
    (tmp_path / "link").symlink_to(source)
    linked = [tmp_path / "link" / path.relative_to(source) for path in wanted]
    assert inputs.find_sources([tmp_path / "link"], output) == linked
    assert inputs.find_sources([source], tmp_path / "link" / "deep" / "out") == wanted
    own = output / "shards" / "a.jsonl"
    assert inputs.find_sources([own], output) == [own]
    with pytest.raises(ValueError, match="in: is where the results go"):
        inputs.find_sources([source], source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "none.jsonl: is nothing, wants a .jsonl"),
        ("x.txt", "x.txt: is a file of another kind"),
        ("empty", "empty: no .jsonl or .parquet file, picture or video below it"),
    ],
)
def test_unusable_sources_are_named(tmp_path, name, message):
    (tmp_path / "x.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        inputs.find_sources([tmp_path / name], tmp_path / "out")


def test_a_parquet_file_has_to_be_one_and_to_hold_items(tmp_path):
    bad, other = tmp_path / "bad.parquet", tmp_path / "other.parquet"
    bad.write_bytes(b"PAR1 nothing")
    pyarrow.parquet.write_table(pyarrow.table({"caption": ["a"]}), other)
    with pytest.raises(ValueError, match="bad.parquet: not a parquet file"):
        inputs.scan(bad, 2)
    with pytest.raises(
        ValueError, match="other.parquet: has the columns caption, wants any of text"
    ):
        inputs.scan(other, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (7, "here: got int, wants a string or an object"),
        ({"txt": "a"}, "here: unknown key 'txt'"),
        ({"id": "a", "text": None}, "here: wants at least one of text"),
        ({"id": "\ud800", "text": "a"}, "here, field 'id': not valid Unicode"),
    ],
)
def test_rows_that_are_no_items_are_named(row, message):
    with pytest.raises((ValueError, TypeError), match=message):
        item_of_row(row, "here", Path())


def test_pictures_of_a_row_in_every_form():
    row = {"images": [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": "b.png"}, b"y"]}
    identity, item = item_of_row(row, "here", Path("/d"))
    assert item == {"images": ["/d/a.png", b"x", b"y"]}
    assert item_of_row({"image": b"y"}, "here", Path("/d"))[0] == "here"
    remote = {"image": "https://host/a.png"}
    assert item_of_row(remote, "here", Path("/d")) == ("https://host/a.png", remote)
