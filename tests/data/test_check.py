"""Checking a training set: every kind of problem is found, counted and named."""

import json
import re

import pytest
from PIL import Image

from umer1.data import open_rl, open_sft
from umer1.data.check import DAMAGED, LONG, MISSING, PROMPT, RECORD, RESPONSE, UNICODE, check_pairs
from umer1.data.check_report import lines, summary

GOOD = "<think>It is a cat.</think><answer>cat\n<gen_emb>"


def side(text="a", response=GOOD, **media):
    mark = "<image>" if "image" in media else "<video>" if "video" in media else ""
    turns = [{"from": "human", "value": f"{mark}{text}\n<disc_emb>\n"}]
    turns.append({"from": "gpt", "value": response})
    return {"conversations": turns, **media}


def record(query=None, target=None, name="cats"):
    return {"dataset_name": name, "qry": query or side(), "pos": target or side()}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    Image.new("RGB", (20, 30)).save(tmp_path / "narrow.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    return tmp_path


def _texts(record):
    return "".join(
        turn["value"] for side in ("qry", "pos") for turn in record[side]["conversations"]
    )


def check(folder, rows, **options):
    (folder / "train.json").write_text(json.dumps(rows))
    store = open_sft(folder / "train.json", folder)
    report = check_pairs(store, progress=False, **options)
    return report, summary(report, store)


def test_a_clean_set(folder):
    rows = [record(side(image="a.jpg"), side(f"label {n}"), "cats") for n in range(3)]
    rows += [record(side(f"q {n}"), side(video=["a.jpg", "a.jpg"]), "dogs") for n in range(2)]
    rows.append(record(side("<image>", image=["a.jpg", "a.jpg"]), side("label 0"), "cats"))
    report, content = check(folder, rows, decode=True)
    assert content["problems"] == {} and content["examples"] == []
    assert (content["pairs"], content["checked"], content["media"]) == (6, 6, 3 + 4 + 2)
    assert content["modalities"] == {"image → text": 3, "text → video": 2, "images → text": 1}
    assert content["responses"] == {"sides": 12, "think": 1.0, "answer": 1.0, "gen_emb": 1.0}
    assert content["sources"]["cats"]["pairs"] == 4
    assert content["sources"]["cats"]["duplicate_targets"] == 1  # label 0, twice
    assert content["sources"]["dogs"]["duplicate_targets"] == 1  # the same frames
    assert content["sources"]["dogs"]["tokens"]["max"] == 32 + len(_texts(rows[3])) // 4 + 2 * 16
    assert list(lines(content))[-1] == "no problems"


PROBLEMS = {
    RECORD: (record(side(image=7)), r"record 1, qry: 'image' wants a path"),
    MISSING: (record(None, side(video=["a.jpg", "gone.jpg"])), r"no such file: .*gone\.jpg"),
    PROMPT: (record({"conversations": [{"from": "human", "value": "no token"},
                                       {"from": "gpt", "value": GOOD}]}), "has no <disc_emb>"),
    RESPONSE: (record(side(response=GOOD + " more")), "1 <gen_emb> and ends with .* more'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROBLEMS)
def test_problems_are_counted_by_source_and_named(folder, kind):
    bad, message = PROBLEMS[kind]
    report, content = check(folder, [record(), bad, record(name="dogs")])
    assert content["problems"] == {kind: 1}
    assert [content["sources"][name]["problems"] for name in ("cats", "dogs")] == [1, 0]
    (example,) = content["examples"]
    assert "train.json: record 1" in example["where"]
    assert any(re.search(message, line) for line in lines(content))


BAD_NEGATIVES = {
    MISSING: side(image="gone.jpg"),
    DAMAGED: side(image="cut.jpg"),
    RESPONSE: side(response="no token"),
    UNICODE: side("\ud800"),
}


@pytest.mark.parametrize("kind", BAD_NEGATIVES)
def test_hard_negatives_are_checked_like_targets(folder, kind):
    content = check(folder, [record() | {"neg": [side(), BAD_NEGATIVES[kind]]}], decode=True)[1]
    assert content["problems"] == {kind: 1}
    assert "record 0, neg[1]" in content["examples"][0]["where"]


@pytest.mark.parametrize("bad", [side("\ud800"), side(response="\udfff" + GOOD)])
def test_lone_surrogates_are_found_before_the_tokenizer_meets_them(folder, bad):
    content = check(folder, [record(target=bad)])[1]
    assert content["problems"] == {UNICODE: 1}
    assert "record 0, target" in content["examples"][0]["where"]
    path = side(image="\ud800.jpg")
    content = check(folder, [record(path)])[1]
    assert content["problems"] == {MISSING: 1}
    "\n".join(lines(content)).encode()  # can be printed


@pytest.mark.parametrize("media", ["image", "video"])
def test_proportions_that_no_model_takes(folder, media):
    Image.new("RGB", (2010, 10)).save(folder / "thin.png")
    name = "thin.png" if media == "image" else ["thin.png"]
    content = check(folder, [record(side(**{media: name}))], decode=True)[1]
    assert content["problems"] == {DAMAGED: 1}
    assert "wants at most 200 times" in content["examples"][0]["reason"]


def test_long_sides_are_found_by_estimate_or_exactly(folder):
    rows = [record(side("long " * 100, image="a.jpg")), record()]
    content = check(folder, rows, max_length=200)[1]
    assert content["problems"] == {LONG: 1}
    assert "tokens (estimated), more than 200" in content["examples"][0]["reason"]
    # a picture of 40 x 30 pixels is one token and not 400, for the bundled model
    assert check(folder, rows, max_length=200 + 400)[1]["problems"] == {}
    exact = check(folder, rows, max_length=200, model="tiny")[1]
    assert exact["problems"] == {LONG: 1}
    (told,) = re.findall(r"(\d+) tokens, more than 200", exact["examples"][0]["reason"])
    assert check(folder, rows, max_length=int(told), model="tiny")[1]["problems"] == {}
    assert check(folder, rows, max_length=int(told) - 1, model="tiny")[1]["problems"] == {LONG: 1}


def test_encoding_for_a_model_finds_damage_too(folder):
    content = check(folder, [record(side(image="cut.jpg"))], model="tiny")[1]
    assert content["problems"] == {DAMAGED: 1}


@pytest.mark.parametrize("response", ["no token", "<gen_emb> <gen_emb>", "<gen_emb>.", ""])
def test_the_embedding_token_stands_once_at_the_end(folder, response):
    content = check(folder, [record(side(response=response))])[1]
    assert content["problems"] == {RESPONSE: 1}
    assert content["responses"] == {"sides": 2, "think": 0.5, "answer": 0.5, "gen_emb": 0.5}


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ({"image": "cut.jpg"}, "runcated"),
        ({"image": "empty.jpg"}, "not an image"),
        ({"video": ["a.jpg", "narrow.jpg"]}, "frames of different sizes"),
    ],
)
def test_decoding_finds_damaged_media(folder, media, reason):
    rows = [record(side(**media))]
    assert check(folder, rows)[1]["problems"] == {}
    content = check(folder, rows, decode=True)[1]
    assert content["problems"] == {DAMAGED: 1}
    assert reason in content["examples"][0]["reason"]


def test_a_decompression_bomb_is_damaged(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    content = check(folder, [record(side(image="a.jpg"))], decode=True)[1]
    assert content["problems"] == {DAMAGED: 1}


def test_a_limit_and_examples(folder):
    rows = [record(side(image=f"{number}.jpg")) for number in range(20)]
    report, content = check(folder, rows, limit=12)
    assert (content["checked"], content["problems"]) == (12, {MISSING: 12})
    assert len(content["examples"]) == 5
    assert any("12 x missing medium, the first 5:" in line for line in lines(content))


def test_several_processes_find_the_same(folder, monkeypatch):
    monkeypatch.setattr("umer1.data.check.CHUNK", 7)
    monkeypatch.setattr("umer1.data.check.ALONE", 0)
    rows = [
        record(side(image=f"{n % 3}.jpg" if n % 5 else "a.jpg"), side(f"{n % 4}"), f"s{n % 2}")
        for n in range(40)
    ]
    alone = check(folder, rows, workers=1)[1]
    together = check(folder, rows, workers=2)[1]
    assert alone == together
    assert alone["duplicate_targets"] == 40 - 4  # s0 has targets 0 and 2, s1 has 1 and 3


def test_rl_rows_have_no_responses(folder):
    row = {
        "dataset_name": "set", "qry_text": "q", "qry_image": "gone.jpg", "qry_video": [""],
        "pos_text": "a", "pos_image": "", "pos_video": [""],
    }  # fmt: skip
    (folder / "rl.json").write_text(json.dumps([row]))
    store = open_rl(folder / "rl.json", folder)
    content = summary(check_pairs(store, progress=False), store)
    assert content["problems"] == {MISSING: 1}
    assert content["responses"]["sides"] == 0
    assert any(line.startswith("responses  none") for line in lines(content))
