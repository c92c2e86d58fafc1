"""Rows of samples and the page made of them."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from umer1.data import open_sft
from umer1.data.records import Pair, Side
from umer1.engine import Generated
from umer1.engine.requests import Rollout
from umer1.training import rl, sft
from umer1.training.samples import fixed_pairs, rollout_rows, show_samples
from umer1.training.samples_page import thumbnail, write_page
from umer1.training.start import start


def rollout(first: float, second: float, hit: bool = True) -> Rollout:
    finish = "gen_emb" if hit else "length"
    return Rollout([5, 6], [0.0, 0.0], torch.tensor([first, second]), hit, finish)


def test_rows_name_the_nearest_item_of_the_other_side():
    pairs = [Pair("a", Side("query 0"), Side("target 0")),
             Pair("b", Side("query 1", images=["q.png"]), Side("target 1", video=["f0.png", "f1.png"]))]  # fmt: skip
    results = [
        Generated(rollouts=[rollout(1, 0), rollout(0.6, 0.8)]),  # query 0: right, wrong
        Generated(rollouts=[rollout(0, 1), rollout(0, 1, hit=False)]),  # query 1: right, no vector
        Generated(rollouts=[rollout(1, 0), rollout(1, 0)]),
        Generated(rollouts=[rollout(0, 1), rollout(0, 1)]),
    ]
    scores = {"reward": torch.arange(8.0).view(2, 2, 2)}
    rows = rollout_rows(
        pairs, (results[:2], results[2:]), scores, lambda tokens: f"wrote {tokens}", count=2
    )
    assert [(row["side"], row["pair"], row["sample"]) for row in rows[:5]] == [
        ("query", 0, 0), ("query", 0, 1), ("query", 1, 0), ("query", 1, 1), ("target", 0, 0),
    ]  # fmt: skip
    assert [row["nearest_right"] for row in rows] == [True, False, True, False, True, True, True, True]  # fmt: skip
    assert rows[1]["nearest"] == "target 1 [f0.png]" and rows[3]["nearest"] is None
    assert [row["reward"] for row in rows] == list(range(8))
    assert rows[6]["media"] == ["f0.png", "f1.png"] and rows[0]["completion"] == "wrote [5, 6]"
    assert len(rollout_rows(pairs, (results[:2], results[2:]), scores, str, count=1)) == 4
    json.dumps(rows)


def test_fixed_pairs_are_the_first_of_each_source():
    assert fixed_pairs(["a", "a", "b", "c", "c"], 2) == [0, 2]
    assert fixed_pairs(["a", "a", "b", "c", "c"], 4) == [0, 2, 3, 1]
    assert fixed_pairs(["a", "a"], 9) == [0, 1]


def test_rl_writes_its_rollouts_with_rewards(rl_config, tmp_path):
    rl.run(replace(rl_config, steps=2, samples_every=2, samples_count=3), progress=False)
    (file,) = (tmp_path / "rl/samples/rl").glob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.name == "step-00000002.jsonl" and len(rows) == 3 * 2 * 3  # pairs, sides, rollouts
    for row in rows:
        assert row["reward"] == pytest.approx(row["format"] + row["rank"] * row["gap"], abs=1e-5)
    groups = {(row["pair"], row["side"]) for row in rows}
    for group in groups:
        advantages = [row["advantage"] for row in rows if (row["pair"], row["side"]) == group]
        assert sum(advantages) == pytest.approx(0, abs=1e-4)
    assert (tmp_path / "rl" / "samples.html").stat().st_size > 1000


def test_sft_writes_greedy_generations_and_trains_as_without(sft_config, tmp_path, monkeypatch):
    from umer1.training import samples

    monkeypatch.setattr(samples, "LONGEST", 6)
    shown = replace(sft_config, steps=2, samples_every=1, samples_count=3)
    sft.run(shown, progress=False)
    rows = [json.loads(line) for line in
            (tmp_path / "sft/samples/sft/step-00000002.jsonl").read_text().splitlines()]  # fmt: skip
    assert [row["source"] for row in rows] == ["pictures", "videos", "texts"] * 2
    assert all(row["tokens"] <= 6 and row["reference"].startswith("<think>") for row in rows)
    sft.run(replace(shown, samples_every=0, output=str(tmp_path / "plain")), progress=False)
    losses = lambda name: [json.loads(line)["total"] for line in (tmp_path / name / "sft_metrics.jsonl").open()]  # fmt: skip
    assert losses("sft") == losses("plain")


def test_a_record_that_does_not_fit_is_left_out_and_named(sft_config, records, tmp_path, capsys):
    """The first of its source, so that it would be shown."""
    rows = json.loads((records / "sft.json").read_text())[16:19]
    (tmp_path / "good.json").write_text(json.dumps(rows))
    del rows[0]["pos"]
    (tmp_path / "bad.json").write_text(json.dumps(rows))
    model, processor = start(sft_config, open_sft(tmp_path / "good.json", records))
    shown = []
    state = SimpleNamespace(
        step=1, processor=processor, monitor=SimpleNamespace(samples=lambda _, rows: shown.extend(rows)),
        parallel=SimpleNamespace(is_main=True, whole_weights=lambda: nullcontext(model)),
    )  # fmt: skip
    pairs = open_sft(tmp_path / "bad.json", records)
    show_samples(state, pairs, replace(sft_config, samples_count=2, max_length=200))
    assert "samples: left out" in (told := capsys.readouterr().out) and "record 0" in told
    assert {row["prompt"] for row in shown} == {pairs[1].query.text, pairs[1].target.text}


def test_the_page_is_self_contained_escaped_and_shows_small_pictures(tmp_path):
    Image.new("RGB", (400, 300), "red").save(tmp_path / "red.png")
    folder = tmp_path / "samples" / "rl"
    folder.mkdir(parents=True)
    row = {"pair": 0, "source": "<b>digits", "side": "query", "prompt": "<script>alert(1)</script>", "sample": 0,
           "media": [str(tmp_path / "red.png"), str(tmp_path / "missing.png")], "completion": "<think>&</think>",
           "tokens": 3, "finish": "gen_emb", "nearest": "<i>two", "nearest_right": False, "format": 1.0, "rank": 0.5,
           "gap": 0.25, "reward": 1.125, "advantage": -0.7}  # fmt: skip
    for step in range(1, 31):
        (folder / f"step-{step:08d}.jsonl").write_text(json.dumps(row) + "\n")
    page = write_page(tmp_path, "rl").read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "<i>two" not in page
    assert "&lt;think&gt;&amp;&lt;/think&gt;" in page and "&lt;b&gt;digits" in page
    assert "http" not in page and page.count("src='data:image/jpeg;base64,") == 20
    assert "missing.png" in page and "-0.70" in page and "prefers-color-scheme:dark" in page
    assert page.index("step 30 ·") < page.index("step 12 ·") < page.index("step 1 ·")
    assert "step 11 ·" not in page and "10 earlier steps" in page


def test_a_thumbnail_that_stays_large_or_is_no_picture_is_left_out(tmp_path, monkeypatch):
    from umer1.training import samples_page

    (tmp_path / "clip.mp4").write_bytes(b"no picture")
    assert thumbnail(str(tmp_path / "clip.mp4")) is None
    Image.effect_noise((300, 300), 100).save(tmp_path / "noise.png")
    assert thumbnail(str(tmp_path / "noise.png")) is not None
    monkeypatch.setattr(samples_page, "THUMBNAIL_BYTES", 500)
    thumbnail.cache_clear()
    assert thumbnail(str(tmp_path / "noise.png")) is None
    thumbnail.cache_clear()
