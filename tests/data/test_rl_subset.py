"""Choosing pairs for RL: balance, unseen first, harder first, neighbours."""

import json
from collections import Counter

import numpy as np
import pytest

from umer1.data import RecordError, open_rl, open_sft
from umer1.data.pass_rates import UNKNOWN, read_pass_rates
from umer1.data.rl_subset import CHUNK, build_rl_subset
from umer1.data.seen import SeenPairs, pair_digests
from umer1.data.shares import equal_shares


def row(number, source="cats", kind="image", target=None):
    made = {
        "dataset": source, "dataset_name": source, "solution": "<embedding>",
        "qry_text": f"question {number}", "qry_image": "", "qry_video": [""],
        "pos_text": target or f"answer {number}", "pos_image": "", "pos_video": [""],
    }  # fmt: skip
    if kind == "image":
        made["qry_image"] = f"media/{source}/{number}.jpg"
    if kind == "video":
        made["pos_video"] = [f"media/{source}/{number}/{frame}.jpg" for frame in range(2)]
    return made


def sft(number, root, **fields):
    """The SFT record of the same pair, below another root."""
    of = row(number, **fields)
    media = {"image": f"{root}/{of['qry_image']}"} if of["qry_image"] else {}
    video = {} if of["pos_video"] == [""] else {"video": [f"{root}/{f}" for f in of["pos_video"]]}

    def side(text, media):
        mark = "".join(f"<{kind}>\n" for kind in media)
        turns = [{"from": "human", "value": f"{mark}{text}\n<disc_emb>\nRepresent the above"}]
        turns.append({"from": "gpt", "value": "<think>a</think><answer>b\n<gen_emb>"})
        return {"conversations": turns, **media}

    return {
        "dataset_name": "other", "qry": side(of["qry_text"], media), "pos": side(of["pos_text"], video)
    }  # fmt: skip


@pytest.fixture
def opened(tmp_path):
    def write(rows, name="pool.jsonl", kind=open_rl):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return kind(tmp_path / name, tmp_path)

    return write


@pytest.fixture
def build(tmp_path):
    def call(store, count, **options):
        output = tmp_path / "rl.json"
        told = build_rl_subset(store, output, root=tmp_path, count=count, progress=False, **options)
        assert json.loads((tmp_path / "rl.statistics.json").read_text()) == told
        return json.loads(output.read_text()), told

    return call


SOURCES = [("a", "image", 100), ("b", "image", 100), ("c", "image", 10), ("v", "video", 40),
           ("VisRAG", "image", 60), ("my_colpali_set", "image", 60), ("t", "text", 30)]  # fmt: skip


def pool():
    return [
        row(1000 * place + number, source, kind)
        for place, (source, kind, size) in enumerate(SOURCES)
        for number in range(size)
    ]


def test_modalities_and_their_sources_get_equal_shares(opened, build):
    rows, told = build(opened(pool()), 150)
    assert told["modalities"] == {"image": 55, "video": 40, "visdoc": 55}
    assert Counter(one["dataset_name"] for one in rows) == {
        "a": 23, "b": 22, "c": 10, "v": 40, "VisRAG": 28, "my_colpali_set": 27,
    }  # fmt: skip
    assert told["excluded"] == {"other modality": 30}
    assert len({one["qry_text"] for one in rows}) == 150
    rows, told = build(opened(pool()), 40, modalities=["text", "video"])
    assert told["modalities"] == {"video": 20, "text": 20}


def test_rows_are_the_pools_own(opened, build):
    there = {one["qry_text"]: one for one in pool()}
    rows, _ = build(opened(pool()), 60)
    assert all(one == there[one["qry_text"]] for one in rows)


def test_patterns_tell_visual_documents(opened, build):
    _, told = build(opened(pool()), 60, visdoc=["a", "B"])
    kinds = {one["source"]: one["modality"] for one in told["sources"]}
    assert kinds == {
        "a": "visdoc", "b": "visdoc", "c": "image", "v": "video", "VisRAG": "image",
        "my_colpali_set": "image",
    }  # fmt: skip


def test_equal_seeds_choose_equal_pairs(opened, build):
    store = opened(pool())
    first, again, other = (build(store, 60, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again != other


def test_seen_pairs_are_taken_last(opened, build):
    rows = [row(number) for number in range(40)] + [row(100 + n, "v", "video") for n in range(40)]
    known = [sft(number, "elsewhere") for number in range(30)]
    known += [sft(100 + n, "elsewhere", source="v", kind="video") for n in range(5)]
    seen = opened(known, "sft.jsonl", open_sft)
    chosen, told = build(opened(rows), 40, seen=[seen])
    assert told["seen"] == 10  # 20 of 40 pictures, of which 10 are unseen
    numbers = [int(one["qry_text"].split()[1]) for one in chosen]
    assert set(range(30, 40)) < set(numbers)
    assert not set(range(100, 105)) & set(numbers)
    by_source = {one["source"]: one for one in told["sources"]}
    assert (by_source["cats"]["unseen"], by_source["cats"]["chosen_seen"]) == (10, 10)
    assert (by_source["v"]["unseen"], by_source["v"]["chosen_seen"]) == (35, 0)


def test_what_makes_pairs_the_same(opened):
    seen = SeenPairs.of([opened([sft(1, "x")], "sft.jsonl", open_sft)], progress=False)

    def has(**changes):
        (pair,) = opened([row(1) | changes])
        return seen.has(pair_digests(pair))

    assert has()
    assert has(qry_text=" question\n1 ")
    assert not has(qry_text="question 2")
    assert not has(pos_text="answer 2")
    assert not has(qry_image="media/cats/2.jpg")
    assert not has(qry_image="media/dogs/1.jpg")
    assert not has(qry_image="images/cats/1.jpg")
    assert not has(qry_image="")
    (pair,) = opened([row(1)])
    pair.query.images = [b"a table's own picture"]
    assert seen.has(pair_digests(pair))  # by its texts


def test_harder_pairs_first(opened, build, tmp_path):
    rates = [{"pair": n, "right": n % 9, "samples": 8} for n in range(90)]
    (tmp_path / "rates.jsonl").write_text("\n".join(map(json.dumps, rates)))
    store = opened([row(number) for number in range(100)])  # ten without a rate

    def chosen(count, **options):
        rows, told = build(store, count, pass_rates=tmp_path / "rates.jsonl", **options)
        (source,) = told["sources"]
        numbers = [int(one["qry_text"].split()[1]) for one in rows]
        return Counter(n % 9 if n < 90 else None for n in numbers), source

    counts, source = chosen(25)
    assert counts == {0: 10, 1: 10, 2: 5}
    assert source["pass_rate"] == 0.5 and source["chosen_pass_rate"] == pytest.approx(20 / 8 / 25)
    assert chosen(25, drop_unsolved=True)[0] == {1: 10, 2: 10, 3: 5}
    assert chosen(95)[0][None] == 5
    # unseen comes before hard
    seen = opened([sft(n, "x") for n in range(100) if n % 9 == 0], "sft.jsonl", open_sft)
    assert chosen(25, seen=[seen])[0] == {1: 10, 2: 10, 3: 5}


def test_neighbours_are_of_one_source_and_have_different_targets(opened, build):
    rows = [row(n, "a", target=f"label {n % 17}") for n in range(200)]
    rows += [row(1000 + n, "b") for n in range(70)]
    chosen, _ = build(opened(rows), 200)
    chunks = [chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK)]
    pure = [chunk for chunk in chunks if len({one["dataset_name"] for one in chunk}) == 1]
    assert len(pure) >= 200 // CHUNK - 1
    labels = Counter(one["pos_text"] for one in chosen if one["dataset_name"] == "a")
    assert len(labels) == 17 and max(labels.values()) == 8  # 130 pairs of 17 targets
    for chunk in pure[:-1]:
        assert len({one["pos_text"] for one in chunk}) == len(chunk)
    order = "".join(chunk[0]["dataset_name"] for chunk in pure)
    assert "ab" in order and "ba" in order  # sources alternate


def test_pairs_that_rl_rows_cannot_hold_or_that_are_double(opened, build):
    two = sft(1, "x")
    two["qry"] = {**two["qry"], "image": ["1.jpg", "2.jpg"]}
    two["qry"]["conversations"][0]["value"] = "<image><image>which?\n<disc_emb>\n"
    records = [two, sft(2, "x"), sft(2, "x"), sft(3, "x")]
    rows, told = build(opened(records, "sft.jsonl", open_sft), 2)
    assert told["excluded"] == {"several pictures on a side": 1, "the same pair again": 1}
    assert rows[0]["qry_text"].startswith("question") and "disc_emb" not in rows[0]["qry_text"]
    assert {one["qry_image"] for one in rows} == {"x/media/cats/2.jpg", "x/media/cats/3.jpg"}


def test_videos_of_one_folder_are_different_pairs(opened, build):
    rows = [
        row(1) | {"qry_image": "", "qry_video": [f"m/{n}_1.jpg", "m/last.jpg"]} for n in range(5)
    ]
    rows.append(rows[0] | {"qry_video": ["m/0_1.jpg", "m/other.jpg"]})
    _, told = build(opened([*rows, rows[0]]), 6)
    assert told["excluded"] == {"the same pair again": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 21}, "count: got 21, wants 1 to 20"),
        ({"count": 0}, "count: got 0"),
        ({"modalities": ["audio"]}, "modalities: got 'audio', wants some of image, video"),
        ({"modalities": ["text"]}, "left out: 20 x other modality"),
        ({"drop_unsolved": True}, "drop_unsolved: wants pass_rates"),
        ({"output": "rl.txt"}, "output: got rl.txt"),
    ],
)
def test_settings_that_cannot_be_met(opened, tmp_path, options, message):
    store = opened([row(number) for number in range(20)])
    options = {"count": 5, "output": tmp_path / "rl.json"} | options
    with pytest.raises(ValueError, match=message):
        build_rl_subset(store, options.pop("output"), root=tmp_path, progress=False, **options)
    assert not list(tmp_path.glob("rl.*"))


def test_pass_rates_of_a_file(tmp_path):
    path = tmp_path / "rates.jsonl"
    path.write_text('{"pair": 2, "right": 1, "samples": 4}\n{"pair": 0, "right": 0, "samples": 4}')
    assert read_pass_rates(path, 3).tolist() == [0.0, UNKNOWN, 0.25]
    for bad in ('{"pair": 3, "right": 1, "samples": 4}', '{"pair": 0, "right": 5, "samples": 4}',
                '{"pair": 0, "right": 0, "samples": 0}', '{"pair": "0", "right": 0, "samples": 1}'):  # fmt: skip
        path.write_text(bad)
        with pytest.raises(RecordError, match=r"rates\.jsonl: record 0: "):
            read_pass_rates(path, 3)


def test_equal_shares():
    assert equal_shares(10, [100, 100, 100]) == [4, 3, 3]
    assert equal_shares(10, [1, 100, 4]) == [1, 5, 4]
    assert equal_shares(0, [3, 3]) == [0, 0]
    assert equal_shares(6, [3, 3]) == [3, 3]
    assert equal_shares(0, []) == []
    with pytest.raises(ValueError, match="total: got 7, wants 0 to 6"):
        equal_shares(7, [3, 3])


def test_equal_shares_of_random_sizes():
    random = np.random.default_rng(0)
    for _ in range(200):
        sizes = random.integers(0, 30, random.integers(1, 8))
        total = int(random.integers(0, sizes.sum() + 1))
        shares = np.array(equal_shares(total, sizes))
        assert shares.sum() == total and (shares <= sizes).all()
        # nobody has two more than one who still had room
        room = shares < sizes
        assert not room.any() or shares.max() <= shares[room].min() + 1
