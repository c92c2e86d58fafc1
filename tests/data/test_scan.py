"""Records found in one pass: the offsets and contents that `json.loads` of the whole file gives."""

import json
import random

import pytest

from umer1.data import scan as scanning
from umer1.data.scan import RecordError, parse, scan

HOSTILE = ['}]{["', "\\", '\\"', "a\\\\", "\n\t", "é", "图像", "🙂", "\u2028", "<image>", "", "]", ",", "\x7f"]  # fmt: skip


def records(count, seed=0):
    chance = random.Random(seed)

    def text():
        return "".join(chance.choices(HOSTILE, k=chance.randrange(12)))

    return [
        {text() + "k": text(), "n": [number, {"x": text(), "deep": [[text()]]}], "b": None}
        for number in range(count)
    ]


def check(path, rows):
    found = list(scan(path))
    assert [row for *_, row in found] == rows
    content = path.read_bytes()
    for offset, length, row in found:
        assert content[offset : offset + 1] == b"{"
        assert parse(content[offset : offset + length], path, offset) == row


@pytest.mark.parametrize("window", [1, 7, 64, 4096])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_lists_in_windows_of_any_size(tmp_path, monkeypatch, window, indent, ascii_only):
    monkeypatch.setattr(scanning, "WINDOW", window)
    rows = records(30)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    check(path, rows)


def test_white_space_between_records(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n\t [ \r\n{"a": 1}\n\n ,\t{"b": "}"}   ,{}\n]\n\n')
    check(path, [{"a": 1}, {"b": "}"}, {}])
    path.write_text("  [ ]  ")
    check(path, [])
    path.write_text("  \n")
    check(path, [])


def test_lines(tmp_path):
    rows = records(20, seed=1)
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n\n" + "\n  \n".join(lines) + "\r\n", encoding="utf-8")
    check(path, rows)
    path.write_text(lines[0], encoding="utf-8")  # no newline at the end
    check(path, rows[:1])


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "a.json"
    for text in ('[{"a": 1}]', '{"a": 1}\n'):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        check(path, [{"a": 1}])


def test_every_cut_of_a_list_is_named_with_its_byte(tmp_path):
    rows = [{"a": 'x"}', "é": [1, True]}, {"b": -1.5e3}]
    content = json.dumps(rows, ensure_ascii=False).encode()
    path = tmp_path / "a.json"
    for end in range(1, len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(RecordError, match=r"a\.json: record \d: .*byte \d+"):
            list(scan(path))
    path.write_bytes(content[:-1])
    with pytest.raises(RecordError, match=rf"the file ends inside the list.*byte {end}\b"):
        list(scan(path))


BROKEN = {
    '[{"a": 1} {"b": 2}]': r"record 1: wants ',' or '\]' after a record, got '{' \(byte 10 ",
    '[{"a": 1}, 7]': r"record 1: wants an object, got int \(byte 11\)",
    '[{"a": 1}, [1]]': r"record 1: wants an object, got list",
    '[{"a": 1},]': r"record 1: not valid JSON: Expecting value at byte 10",
    '[{"a": 1}] x': r"record 1: wants nothing after the list, got 'x' \(byte 11",
    '[{"a": tru}, {"b": "' + "y" * 100 + '"}]': r"record 0: not valid JSON: Expecting value at byte 7 ",
    '[{"a": "' + "é" * 10 + '", "b" 1, "c": "' + "y" * 100 + '"}]': r"Expecting ':' delimiter at byte 35 ",
    '{"a": 1}\n{"b": \n': r"line 2 is not valid JSON: .*\(byte 9\)",
    '{"a": 1}\n3\n': r"record 1: wants an object, got int \(byte 9\)",
    '[{"a": ' + "[" * 100_000 + "1" + "]" * 100_000 + "}]": "record 0: not valid JSON: .*recursion",
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_broken_files(tmp_path, number):
    text, message = list(BROKEN.items())[number]
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=message):
        list(scan(tmp_path / "a.json"))


def test_not_utf8(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(RecordError, match="not UTF-8 after byte 8"):
        list(scan(tmp_path / "a.json"))


def test_a_record_without_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "WINDOW", 100)
    monkeypatch.setattr(scanning, "LONGEST", 1000)
    path = tmp_path / "a.json"
    path.write_text('[{"a": "' + "x" * 100_000)
    with pytest.raises(RecordError, match="record 0: not valid JSON: no end within"):
        list(scan(path))
    path.write_text("x" * 100_000)
    with pytest.raises(RecordError, match="line 1 is longer than"):
        list(scan(path))
    path.write_text(json.dumps([{"a": "x" * 900}] * 3))  # a long record is fine
    assert len(list(scan(path))) == 3


def test_no_such_file(tmp_path):
    with pytest.raises(RecordError, match="none.json: no such file"):
        list(scan(tmp_path / "none.json"))
