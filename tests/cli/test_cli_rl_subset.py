"""`umer1 data rl-subset`, as a user runs it."""

import json

import pytest
from PIL import Image


@pytest.fixture
def pool(tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    rows = []
    for number in range(60):
        row = {"dataset_name": ("cats", "visrag", "clips")[number % 3], "qry_text": f"q {number}"}
        row |= {"pos_text": f"t {number}", "qry_image": "a.png", "qry_video": [""]}
        if number % 3 == 2:
            row |= {"qry_image": "", "qry_video": ["a.png", "a.png"]}
        rows.append(row)
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    return tmp_path / "pool.json"


def test_choose_then_check(run, pool, tmp_path):
    (tmp_path / "sft.json").write_text(json.dumps(json.loads(pool.read_text())[:30]))
    out = tmp_path / "new" / "rl.json"
    given = ("-n", 12, "--seen", tmp_path / "sft.json", "--data-path", tmp_path, "-q")
    result = run("data", "rl-subset", pool, "-o", out, *given)
    assert result.status == 0, result.err
    assert "chosen    12: image 4, video 4, visdoc 4; 0 of them seen in SFT" in result.out
    assert f"12 of 60 pairs are in {out}" in result.err
    checked = run("data", "check", out, "--data-path", tmp_path, "-q", "--json")
    content = json.loads(checked.out)
    assert checked.status == 0 and (content["kind"], content["pairs"]) == ("rl", 12)
    told = run("data", "rl-subset", pool, "-o", out, *given, "--json")
    assert json.loads(told.out) == json.loads((tmp_path / "new/rl.statistics.json").read_text())


def test_harder_pairs(run, pool, tmp_path):
    rates = [{"pair": number, "right": number % 5, "samples": 4} for number in range(60)]
    (tmp_path / "rates.jsonl").write_text("\n".join(map(json.dumps, rates)))
    given = ("-n", 12, "--pass-rates", tmp_path / "rates.jsonl", "--drop-unsolved", "-q")
    result = run("data", "rl-subset", pool, "-o", tmp_path / "rl.json", *given)
    assert result.status == 0, result.err
    assert "0.250" in result.out and "left out  12 x solved by no sample" in result.out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("-n", 61), "count: got 61, wants 1 to 60"),
        (("--modalities", "image,sound"), "modalities: got 'sound'"),
        (("--seen", "gone.json"), "gone.json: no such file"),
    ],
)
def test_bad_settings_are_one_line(run, pool, tmp_path, given, message):
    result = run("data", "rl-subset", pool, "-o", tmp_path / "rl.json", *given, "-q")
    assert result.status == 1 and message in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "rl.json").exists()
