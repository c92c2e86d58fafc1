"""The released training formats, as written by their authors, and what is wrong with a bad record."""

import json
import subprocess
import sys

import pytest
import yaml

from umer1.data import missing_media, read_rl, read_sft
from umer1.data.records import RecordError, take

INSTRUCTION = "\n<disc_emb>\nRepresent the above input text"


def side(text="a cat", response="<think>a</think><answer>b\n<gen_emb>", **media):
    turns = [{"from": "human", "value": text + INSTRUCTION}, {"from": "gpt", "value": response}]
    return {"conversations": turns, **media}


def record(qry=None, pos=None, **more):
    return {"dataset_name": "set", "qry": qry or side(), "pos": pos or side(), **more}


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


RELEASED = [
    record(side("<image>\nWhat is it?", image="a/b.jpg", num_tokens=12), num_tokens=31),
    record(side("<image>\n<image>\nCompare.", image=["c.jpg", "d.jpg"])),
    record(pos=side("<video>\nA clip.", video=["f1.jpg", "f2.jpg", "f1.jpg"])),
    record(side("no media"), side("no media here either")),
]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_released_sft_records(tmp_path, form):
    path = tmp_path / f"annotations.{form}"
    lines = "\n".join(json.dumps(row) for row in RELEASED)
    path.write_text(json.dumps(RELEASED, indent=1) if form == "json" else lines + "\n\n", "utf-8")
    pairs = read_sft(path, tmp_path / "media")
    assert [pair.dataset for pair in pairs] == ["set"] * 4
    root = str(tmp_path / "media")
    assert pairs[0].query.images == [f"{root}/a/b.jpg"]
    assert pairs[0].query.video is None
    assert pairs[0].query.text == "<image>\nWhat is it?" + INSTRUCTION
    assert pairs[0].query.response == "<think>a</think><answer>b\n<gen_emb>"
    assert pairs[1].query.images == [f"{root}/c.jpg", f"{root}/d.jpg"]
    assert pairs[2].target.video == [f"{root}/f1.jpg", f"{root}/f2.jpg", f"{root}/f1.jpg"]
    assert pairs[2].target.images == []


def test_unicode_line_separators_do_not_cut_json_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(record(side("one\u2028two")), ensure_ascii=False), encoding="utf-8")
    assert read_sft(path, tmp_path)[0].query.text == "one\u2028two" + INSTRUCTION


def test_records_without_a_data_set_name_take_the_file_name(tmp_path):
    row = record()
    del row["dataset_name"]
    assert read_sft(write(tmp_path / "UME-R1-SFT.json", [row]), ".")[0].dataset == "UME-R1-SFT"


def test_h6_text_only_sides_are_kept_and_never_replaced_by_a_neighbour(tmp_path):
    rows = [record(side(f"query {n}"), side(f"target {n}")) for n in range(5)]
    pairs = read_sft(write(tmp_path / "a.json", rows), tmp_path)
    assert [pair.query.text.split("\n")[0] for pair in pairs] == [f"query {n}" for n in range(5)]
    assert all(pair.query.images == [] and pair.query.video is None for pair in pairs)


def test_h6_a_bad_record_stops_reading(tmp_path):
    rows = [record() for _ in range(5)]
    rows[3]["pos"]["image"] = 7
    with pytest.raises(RecordError, match=r"record 3, pos: 'image' wants a path"):
        read_sft(write(tmp_path / "a.json", rows), tmp_path)


BAD = {
    "unknown top key": (record(extra=1), r"record 1: unknown keys \['extra'\]"),
    "unknown side key": (record(side(audio="a.wav")), r"record 1, qry: unknown keys \['audio'\]"),
    "no target": ({"qry": side()}, r"record 1: field 'pos' wants an object"),
    "both media": (
        record(side("<image>\n<video>\n", image="a.jpg", video=["b.jpg"])),
        r"record 1, qry: has both 'image' and 'video'",
    ),
    "video is a path": (
        record(side("<video>", video="a.mp4")),
        r"record 1, qry: 'video' wants a list of frame paths, got 'a.mp4'",
    ),
    "empty path": (record(side("<image>", image=[""])), r"record 1, qry: 'image' wants"),
    "empty list of images": (
        record(side("<image>", image=[])),
        r"record 1, qry: 1 <image> placeholders in the text but 0 media given",
    ),
    "placeholder missing": (
        record(side("no placeholder", image="a.jpg")),
        r"record 1, qry: 0 <image> placeholders in the text but 1 media given",
    ),
    "medium missing": (record(side("<video>\n")), r"1 <video> placeholders .* but 0 media"),
    "three turns": (
        record({"conversations": side()["conversations"] * 2}),
        r"record 1, qry: 'conversations' wants one human turn and one gpt turn",
    ),
    "turn without text": (
        record({"conversations": [{"from": "human"}, {"from": "gpt", "value": ""}]}),
        r"record 1, qry: field 'conversations' wants a string, got None",
    ),
    "not an object": ([1], r"record 1: wants an object, got list"),
    "data set name": (record() | {"dataset_name": 4}, r"record 1: field 'dataset_name' wants a str"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sft_records(tmp_path, case):
    row, message = BAD[case]
    with pytest.raises(RecordError, match=message):
        read_sft(write(tmp_path / "a.json", [record(), row]), tmp_path)


def test_bad_files(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        read_sft(tmp_path / "none.json", tmp_path)
    (tmp_path / "a.json").write_text("[{]")
    with pytest.raises(RecordError, match="a.json: record 0: not valid JSON: .* at byte 2"):
        read_sft(tmp_path / "a.json", tmp_path)
    (tmp_path / "b.jsonl").write_text(json.dumps(record()) + "\n{\n")
    with pytest.raises(RecordError, match="b.jsonl: line 2 is not valid JSON"):
        read_sft(tmp_path / "b.jsonl", tmp_path)


def rl_row(number=0, **changes):
    row = {
        "dataset": "d", "dataset_name": "set", "solution": "<embedding>",
        "qry_text": f"question {number}", "qry_image": "q.jpg", "qry_video": [""],
        "pos_text": "answer", "pos_image": "", "pos_video": [""],
    }  # fmt: skip
    return row | changes


def test_rl_rows(tmp_path):
    rows = [
        rl_row(),
        rl_row(1, qry_image="", pos_video=["1.jpg", "2.jpg"]),
        rl_row(2, qry_image="", pos_video=[]),
    ]
    pairs = read_rl(write(tmp_path / "rl.json", rows), tmp_path / "m")
    assert pairs[0].dataset == "set"
    assert pairs[0].query.text == "question 0"
    assert pairs[0].query.response is None
    assert pairs[0].query.images == [str(tmp_path / "m" / "q.jpg")]
    assert (pairs[0].target.images, pairs[0].target.video) == ([], None)
    assert pairs[1].target.video == [str(tmp_path / "m" / name) for name in ("1.jpg", "2.jpg")]
    assert pairs[2].query.images == []
    assert pairs[2].target.video is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"qry_image": ["a.jpg"]},
            r"record 0: 'qry_image' wants one path or \"\", got \['a.jpg'\]",
        ),
        ({"qry_video": ["a.jpg"]}, r"record 0: has both 'qry_image' and 'qry_video'"),
        ({"pos_video": "a.mp4"}, r"record 0: 'pos_video' wants a list of frame paths"),
        ({"pos_text": None}, r"record 0: field 'pos_text' wants a string"),
        ({"cot": ""}, r"record 0: unknown keys \['cot'\]"),
    ],
)
def test_bad_rl_rows(tmp_path, changes, message):
    with pytest.raises(RecordError, match=message):
        read_rl(write(tmp_path / "rl.json", [rl_row(**changes)]), tmp_path)


def test_rl_yaml_joins_files_and_samples(tmp_path):
    write(tmp_path / "a.json", [rl_row(number) for number in range(10)])
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "b.json", [rl_row(number) for number in range(100, 105)])
    config = {
        "datasets": [
            {"json_path": "a.json", "sampling_strategy": "end:2"},
            {"json_path": "sub/b.json"},
        ]
    }
    (tmp_path / "embed.yaml").write_text(yaml.safe_dump(config))
    texts = [pair.query.text for pair in read_rl(tmp_path / "embed.yaml", tmp_path)]
    assert texts == [f"question {number}" for number in (8, 9, 100, 101, 102, 103, 104)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "wants a mapping with a list 'datasets'"),
        ({"datasets": [{}]}, r"datasets\[0\]: wants a mapping with 'json_path'"),
        ({"datasets": [{"json_path": "a.json", "weight": 1}]}, r"unknown keys \['weight'\]"),
        (
            {"datasets": [{"json_path": "a.json", "sampling_strategy": "last:1"}]},
            "unknown strategy",
        ),
    ],
)
def test_bad_rl_yaml(tmp_path, config, message):
    write(tmp_path / "a.json", [rl_row()])
    (tmp_path / "embed.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RecordError, match=message):
        read_rl(tmp_path / "embed.yaml", tmp_path)


def test_sampling_strategies():
    rows = list(range(10))
    assert take(rows, "all") == rows
    assert take(rows, "first:3") == [0, 1, 2]
    assert take(rows, "end:3") == [7, 8, 9]
    assert take(rows, "end:0") == []
    assert take(rows, "first:25%") == [0, 1, 2]  # rounded up
    assert len(take(rows, "random:40%")) == 4
    assert take(rows, "40%", seed=3) == take(rows, "random:40%", seed=3)
    assert take(rows, "random:5", seed=1) == take(rows, "random:5", seed=1)
    assert take(rows, "random:5", seed=1) != take(rows, "random:5", seed=2)
    assert sorted(take(rows, "random:10")) == rows
    for strategy in ("5", "first", "first:", "first:-1", "middle:3", "50%%", ""):
        with pytest.raises(RecordError, match="unknown strategy"):
            take(rows, strategy)
    with pytest.raises(RecordError, match="asks for 11 of 10 rows"):
        take(rows, "first:11")


def test_missing_media_are_named_once(tmp_path):
    (tmp_path / "here.jpg").write_bytes(b"x")
    rows = [record(side("<image>", image="here.jpg"), side("<image>", image="gone.jpg"))] * 2
    rows.append(record(side("<video>", video=["here.jpg", "lost.jpg"])))
    pairs = read_sft(write(tmp_path / "a.json", rows), tmp_path)
    assert missing_media(pairs) == [str(tmp_path / name) for name in ("gone.jpg", "lost.jpg")]


def test_readers_import_no_optional_package():
    code = (
        "import sys, umer1.data, umer1.data.mini; "
        "print([m for m in ('sklearn', 'skimage', 'skvideo', 'matplotlib', 'av', 'PIL') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
