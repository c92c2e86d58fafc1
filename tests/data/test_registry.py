"""Data sets by name, with `%N` sampling."""

import json

import pytest

from umer1.data import load_registry, read_datasets
from umer1.data.records import RecordError
from umer1.data.registry import parse_names


def turns(text):
    return {
        "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "<gen_emb>"}]
    }


@pytest.fixture
def registry(tmp_path):
    for name, count in (("one", 10), ("two", 7)):
        rows = [
            {"qry": turns(f"{name} {number}"), "pos": turns("target")} for number in range(count)
        ]
        rows[0]["qry"]["image"] = "a.jpg"
        rows[0]["qry"]["conversations"][0]["value"] += "<image>"
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    path = tmp_path / "registry.yaml"
    path.write_text(
        "one: {annotation_path: one.json, data_path: media}\n"
        f"two: {{annotation_path: {tmp_path}/two.json, data_path: /elsewhere}}\n"
    )
    return path


def test_relative_paths_start_at_the_registry(registry, tmp_path):
    entries = load_registry(registry)
    assert entries["one"].annotation_path == tmp_path / "one.json"
    assert entries["one"].data_path == tmp_path / "media"
    assert str(entries["two"].data_path) == "/elsewhere"
    assert read_datasets("one", registry)[0].query.images == [str(tmp_path / "media" / "a.jpg")]


def test_names_are_read_in_order_and_sampled(registry):
    pairs = read_datasets("two%50, one", registry, seed=1)
    assert [pair.dataset for pair in pairs] == ["two"] * 3 + ["one"] * 10  # int(7 * 0.5) = 3
    sampled = [pair.query.text for pair in pairs[:3]]
    assert len(set(sampled)) == 3
    assert sampled == [pair.query.text for pair in read_datasets("two%50", registry, seed=1)]
    others = [[p.query.text for p in read_datasets("two%50", registry, seed=s)] for s in range(5)]
    assert any(sampled != other for other in others)
    assert len(read_datasets("one%100", registry)) == 10


def test_parse_names():
    assert parse_names("a,b%20, c%0.5") == [("a", 100.0), ("b", 20.0), ("c", 0.5)]
    for names in ("a,,b", "%20", "a%", "a%x", "a%0", "a%101", "a%-5", "a%nan"):
        with pytest.raises(RecordError, match="wants 'name' or 'name%N'"):
            parse_names(names)


def test_bad_registries(registry, tmp_path):
    with pytest.raises(RecordError, match=r"unknown data set 'three'; known are \['one', 'two'\]"):
        read_datasets("one,three", registry)
    with pytest.raises(RecordError, match="no such registry file"):
        load_registry(tmp_path / "none.yaml")
    for content, message in (
        ("- a", "wants a mapping"),
        ("a: {annotation_path: b.json}", "'a' wants exactly annotation_path and data_path"),
        ("a%2: {annotation_path: b, data_path: c}", "may contain neither"),
    ):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(RecordError, match=message):
            load_registry(tmp_path / "bad.yaml")
