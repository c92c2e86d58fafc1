"""The pair store: the same pairs as reading a file whole, one at a time."""

import json
import pickle

import numpy as np
import pytest

from umer1.data import PairStore, RecordError, open_datasets, open_rl, open_set, open_sft
from umer1.data.records import read_rl, read_sft
from umer1.data.sets import kind_of


def side(text="q", image=None):
    turns = [{"from": "human", "value": ("<image>" if image else "") + text}]
    turns.append({"from": "gpt", "value": "<gen_emb>"})
    return {"conversations": turns} | ({"image": image} if image else {})


def rl_row(number, name="set"):
    return {
        "dataset": "d", "dataset_name": name, "solution": "<embedding>", "qry_text": f"q {number}",
        "qry_image": "q.jpg", "qry_video": [""], "pos_text": "a", "pos_image": "", "pos_video": [""],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"dataset_name": ("cats", "dogs")[number % 2], "qry": side(f"q {number}", "a.jpg"),
         "pos": side()}
        for number in range(9)
    ]  # fmt: skip
    del rows[4]["dataset_name"]
    (tmp_path / "one.json").write_text(json.dumps(rows))
    (tmp_path / "two.jsonl").write_text(
        "".join(json.dumps({"qry": side(f"two {n}"), "pos": side()}) + "\n" for n in range(20))
    )
    (tmp_path / "rl.json").write_text(json.dumps([rl_row(number) for number in range(10)]))
    (tmp_path / "rl.yaml").write_text(
        "datasets:\n- {json_path: rl.json, sampling_strategy: 'end:2'}\n- {json_path: rl.json}\n"
        "- {json_path: rl.json, sampling_strategy: 30%}\n"
    )
    (tmp_path / "registry.yaml").write_text(
        "one: {annotation_path: one.json, data_path: media}\n"
        "two: {annotation_path: two.jsonl, data_path: media}\n"
    )
    return tmp_path


def test_a_store_is_the_list_of_its_pairs(folder):
    store, whole = open_sft(folder / "one.json", folder), read_sft(folder / "one.json", folder)
    assert list(store) == whole
    assert [store[number] for number in (8, 0, -1)] == [whole[8], whole[0], whole[8]]
    assert store[2:7:2] == whole[2:7:2]
    assert store.where(4) == f"{folder / 'one.json'}: record 4"
    for number in (9, -10):
        with pytest.raises(IndexError):
            store[number]


def test_columns(folder):
    store = open_sft(folder / "one.json", folder)
    assert store.source_names == ["cats", "dogs", "one"]
    assert store.sources.dtype == store.lengths.dtype == np.int32
    named = [store.source_names[number] for number in store.sources]
    assert named == [pair.dataset for pair in store]
    text = len("<image>q N" + "<gen_emb>" + "q" + "<gen_emb>")
    assert store.lengths.tolist() == [32 + text // 4 + 400] * 9
    assert store.source_weights is None


def test_sets_are_joined_and_sampled(folder):
    store = open_datasets("two%50,one,two%10", folder / "registry.yaml", seed=3)
    assert len(store) == 10 + 9 + 2
    assert store.source_names == ["two", "cats", "dogs", "one"]  # equal names are one source
    assert [store.source_names[code] for code in store.sources] == [p.dataset for p in store]
    assert store[10].query.images == [str(folder / "media" / "a.jpg")]
    texts = [pair.query.text for pair in list(store)[:10]]
    assert len(set(texts)) == 10
    again = open_datasets("two%50", folder / "registry.yaml", seed=3)
    assert [pair.query.text for pair in again] == texts
    assert again.where(0).endswith(f"record {texts[0].split()[1]}")


def test_rl_sets(folder):
    for path in (folder / "rl.json", folder / "rl.yaml"):
        store = open_rl(path, folder, seed=5)
        assert list(store) == read_rl(path, folder, seed=5)
        assert not store.has_responses
    assert len(store) == 2 + 10 + 3
    assert store.source_names == ["set"]


def test_a_pickled_store_is_small_and_reads_the_same(folder):
    store = open_datasets("one,two%50", folder / "registry.yaml", seed=1)
    whole, lengths = list(store), store.lengths
    content = pickle.dumps(store)
    assert len(content) < 3000
    again = pickle.loads(content)
    assert list(again) == whole
    assert np.array_equal(again.lengths, lengths)
    assert np.array_equal(again.sources, store.sources)


def test_of_sources(folder):
    store = open_datasets("one,two", folder / "registry.yaml").of_sources(["dogs", "two"])
    assert {pair.dataset for pair in store} == {"dogs", "two"}
    assert len(store) == 4 + 20
    assert store.where(1).endswith("one.json: record 3")
    again = store.of_sources(["dogs"])
    assert [pair.query.text[-1] for pair in again] == ["1", "3", "5", "7"]
    with pytest.raises(ValueError, match="sources: no pairs of 'birds'; the data has dogs, two"):
        store.of_sources(["birds"])


def test_a_weight_of_no_source_is_an_error(folder):
    store = open_sft(folder / "two.jsonl", folder)
    store.parts[0].weight = 2.0
    assert store.source_weights == {"two": 2.0}
    named = open_sft(folder / "one.json", folder)
    named.parts[0].weight, named.parts[0].source = 2.0, "birds"
    cats = PairStore(named.parts).of_sources(["cats"])
    with pytest.raises(ValueError, match="weight: given for 'birds'; the sources are cats"):
        _ = cats.source_weights


def test_a_bad_record_is_named_when_it_is_read(folder):
    rows = json.loads((folder / "one.json").read_text())
    rows[3]["pos"]["image"] = 7
    (folder / "one.json").write_text(json.dumps(rows))
    store = open_sft(folder / "one.json", folder)
    assert store[2].dataset == "cats"
    with pytest.raises(RecordError, match=r"one.json: record 3, pos: 'image' wants a path"):
        store[3]


def test_an_empty_choice_is_an_error(folder):
    with pytest.raises(ValueError, match="has no pairs"):
        open_datasets("two%1", folder / "registry.yaml")
    with pytest.raises(ValueError, match="has no pairs"):
        PairStore([])


def test_kinds_of_data(folder):
    assert kind_of(folder / "one.json") == kind_of(folder / "two.jsonl") == "sft"
    assert kind_of("one", folder / "registry.yaml") == "sft"
    assert kind_of(folder / "rl.json") == kind_of(folder / "rl.yaml") == "rl"
    assert kind_of(folder) == "benchmark"
    (folder / "image.yaml").write_text("digits: {dataset_parser: image_cls, eval_type: local}\n")
    assert kind_of(folder / "image.yaml") == "benchmark"
    (folder / "train.yaml").write_text("a: {dataset_parser: mmeb, weight: 1}\n")
    assert kind_of(folder / "train.yaml") == "vlm2vec"
    (folder / "x.json").write_text('[{"text": 1}]')
    with pytest.raises(
        RecordError, match=r"record 0 is neither an SFT record .* it has \['text'\]"
    ):
        kind_of(folder / "x.json")
    with pytest.raises(ValueError, match="no such file or directory"):
        kind_of(folder / "gone")


def test_open_set_names_what_is_wrong(folder):
    assert len(open_set(folder / "one.json", "sft")) == 9
    with pytest.raises(ValueError, match="registry: names SFT sets"):
        open_set("one", "rl", registry=folder / "registry.yaml")
    with pytest.raises(ValueError, match="no such file: gone"):
        open_set("gone", "sft")
    with pytest.raises(ValueError, match="as YAML, SFT reads VLM2Vec's train files"):
        open_set(folder / "rl.yaml", "sft")
