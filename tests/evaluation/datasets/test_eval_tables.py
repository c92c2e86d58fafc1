"""Rows of Parquet, Arrow, JSON and JSON lines are the same rows; pictures stay in the file."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from umer1.evaluation.datasets.tables import read_pictures, read_table

ROWS = [
    {"id": 1, "texts": ["a", "b"], "clips": [{"output_path": "x.mp4"}]},
    {"id": 2, "texts": [], "clips": []},
    {"id": 3, "texts": ["b", None, "a"], "clips": None},
    {"id": 4, "texts": None, "clips": [{"output_path": "y.mp4"}]},
]


def write(path: Path, rows=ROWS) -> Path:
    table = pyarrow.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        # two row groups: lists come in chunks
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    elif path.name.endswith("file.arrow"):
        with pyarrow.ipc.new_file(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=2)
    elif path.suffix == ".arrow":
        with pyarrow.ipc.new_stream(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=2)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "file.arrow", "a.arrow", "a.json", "a.jsonl"])
def test_formats_hold_the_same_rows(tmp_path, name):
    assert read_table([write(tmp_path / name)]) == ROWS


def test_json_lines_may_be_called_json(tmp_path):
    write(tmp_path / "a.jsonl").rename(tmp_path / "a.json")
    assert read_table([tmp_path / "a.json"]) == ROWS


def test_several_files_are_one_table_in_their_order(tmp_path):
    files = [write(tmp_path / f"{at}.parquet", ROWS[at : at + 2]) for at in (2, 0)]
    assert read_table(files) == ROWS[2:] + ROWS[:2]


def test_repeated_strings_are_one_object(tmp_path):
    rows = read_table([write(tmp_path / "a.parquet", [{"t": ["a" * 9, "b"]}, {"t": ["a" * 9]}])])
    assert rows[0]["t"][0] is rows[1]["t"][0]


def test_pictures_are_left_in_the_file_until_they_are_asked_for(tmp_path):
    rows = [{"corpus-id": at, "image": {"bytes": bytes([at]), "path": "p"}} for at in range(40)]
    for name in ("a.parquet", "a.arrow"):
        path = write(tmp_path / name, rows)
        assert read_table([path]) == [{"corpus-id": at} for at in range(40)]
        pictures = list(read_pictures([path], "corpus-id", "image"))
        assert pictures == [(at, bytes([at])) for at in range(40)]
        with pytest.raises(ValueError, match=r"a\.\w+: no column 'page'"):
            list(read_pictures([path], "page", "image"))


def test_unreadable_tables_are_one_error_with_their_place(tmp_path):
    for name, content, message in (
        ("a.parquet", "PAR1 no", "a.parquet: not a readable table"),
        ("a.arrow", "", "a.arrow: not a readable table"),
        ("a.jsonl", '{"a": 1}\n{"a":', "a.jsonl:2: not JSON"),
        ("a.json", '[{"a": 1},\n 2', "a.json:2: not JSON"),
        ("b.jsonl", "\n\n", "b.jsonl: no rows"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            read_table([tmp_path / name])
    (tmp_path / "c.json").write_text('[{"a": 1}, [2]]')
    with pytest.raises(TypeError, match="c.json, row 1: got list, need an object"):
        read_table([tmp_path / "c.json"])
