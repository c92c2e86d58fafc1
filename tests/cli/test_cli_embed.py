"""embed: what counts as an item, files, JSON, refusals."""

import io
import json

import numpy as np
import pytest

from umer1.cli.items import read_items


def test_arguments_are_told_apart_by_their_form(photos, tmp_path, monkeypatch):
    lines = tmp_path / "rows.jsonl"
    rows = [{"id": "a", "text": "x", "image": "photos/p0.png"}, "plain", {"images": ["/abs.png"]}]
    lines.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(photos)
    ids, items = read_items(
        ["a red bicycle", "p0.png", str(lines), "http://host/v.mp4?x=1"],
        texts=["p9.png"],
        videos=[str(photos)],
    )
    assert ids == [
        "a red bicycle",
        "p0.png",
        "a",
        "plain",
        "['/abs.png']",
        "http://host/v.mp4?x=1",
        "p9.png",
        str(photos),
    ]
    assert items == [
        {"text": "a red bicycle"},
        {"image": "p0.png"},
        {"text": "x", "image": str(tmp_path / "photos/p0.png")},
        {"text": "plain"},
        {"images": ["/abs.png"]},
        {"video": "http://host/v.mp4?x=1"},
        {"text": "p9.png"},
        {"video": str(photos)},
    ]


def test_a_directory_is_its_pictures_and_videos(photos):
    (photos / "deep").mkdir()
    (photos / "deep" / "clip.MP4").touch()
    (photos / "notes.txt").touch()
    ids, items = read_items([str(photos)])
    clip = str(photos / "deep" / "clip.MP4")
    assert ids == [clip, *(str(photos / f"p{number}.png") for number in range(3))]
    assert items[:2] == [{"video": clip}, {"image": ids[1]}]


def test_rows_of_a_table(photos, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    content = (photos / "p1.png").read_bytes()
    rows = [
        {"id": 7, "text": "x", "image": None, "video": None},
        {"id": None, "text": None, "image": {"bytes": None, "path": "photos/p0.png"}},
        {"id": None, "text": "y", "image": {"bytes": content, "path": "p1.png"}},
        {"id": None, "text": None, "image": {"bytes": content, "path": None}, "disc": 1.0},
    ]
    path = tmp_path / "rows.parquet"
    columns = {name: [row.get(name) for row in rows] for name in ("id", "text", "image", "disc")}
    parquet.write_table(pyarrow.table(columns), path)
    ids, items = read_items([str(path)], instruction="Find:")
    assert ids == ["7", "photos/p0.png", "p1.png y", f"{path}:3"]
    for item in items[2:]:
        item["image"] = item["image"].read_bytes()
    assert items == [
        {"instruction": "Find:", "text": "x"},
        {"instruction": "Find:", "image": str(photos / "p0.png")},
        {"instruction": "Find:", "text": "y", "image": content},
        {"instruction": "Find:", "image": content},
    ]


def test_bad_tables_are_one_clear_error(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    path.write_text("no table")
    with pytest.raises(ValueError, match="rows.parquet: not a readable Parquet file"):
        read_items([str(path)])
    parquet.write_table(pyarrow.table({"caption": ["a"]}), path)
    with pytest.raises(ValueError, match="has the columns caption, needs any of text, image"):
        read_items([str(path)])
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    with pytest.raises(ValueError, match="rows.parquet:1: an item needs at least one of text"):
        read_items([str(path)])


def test_lines_from_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "a"}\n\n"b"\n'))
    assert read_items(["-"]) == (["a", "b"], [{"text": "a"}, {"text": "b"}])


def test_an_instruction_goes_to_items_without_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "instruction": "own"}\n{"text": "b"}')
    _, items = read_items([str(path)], instruction="Find:")
    assert [item["instruction"] for item in items] == ["own", "Find:"]


def test_a_text_may_be_longer_than_a_file_name():
    text = "word " * 2000
    assert read_items([text]) == ([text], [{"text": text}])


BAD_ITEMS = [
    ([], "nothing to embed"),
    (["missing.png"], r"missing.png: no such file \(a text that ends like one"),
    (["a", "a"], "id 'a' is there twice"),
    (["{bad}"], r"bad.jsonl:1: not JSON"),
    (["{list}"], r"list.jsonl:1: got list, need a string or an object"),
    (["{empty}"], r"empty.jsonl:1: an item needs at least one of text"),
    (["{folder}"], "no pictures or videos below this directory"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ITEMS)
def test_bad_items_are_one_clear_line(run, embedder, tmp_path, arguments, message):
    contents = {"bad": "{", "list": "[1]", "empty": '{"id": 3}'}
    for name, content in contents.items():
        (tmp_path / f"{name}.jsonl").write_text(content)
    (tmp_path / "folder").mkdir()
    paths = {name: tmp_path / f"{name}.jsonl" for name in contents} | {
        "folder": tmp_path / "folder"
    }
    result = run("embed", *(argument.format(**paths) for argument in arguments))
    assert result.status == 1
    assert result.out == ""
    assert result.err.startswith("umer1: error: ")
    assert len(result.err.splitlines()) == 1
    with pytest.raises((ValueError, TypeError), match=message):
        read_items([argument.format(**paths) for argument in arguments])
    assert embedder.calls == []


def test_embed_shows_what_the_model_wrote(run, embedder, photos):
    result = run("embed", photos, "--quiet")
    assert result.status == 0
    assert result.out.count("summary    thing") == 3
    assert "gen: float32 [3, 16]" in result.out
    assert "embed" not in result.err


def test_embed_json_is_one_document(run, embedder):
    result = run("embed", "a", "b", "--json")
    content = json.loads(result.out)
    assert [item["id"] for item in content["items"]] == ["a", "b"]
    assert content["model"] == "tiny@0"
    np.testing.assert_allclose(
        content["items"][1]["gen"], embedder._vector({"text": "b"}), rtol=1e-6
    )
    assert "a library prints" in result.err


def test_embed_passes_its_options_on(run, embedder):
    options = ["--mode", "gen", "-n", 2, "--temperature", 0.7, "--seed", 5, "--readout", "after"]
    assert run("embed", "a", *options, "--max-new-tokens", 9, "--batch-size", 4).status == 0
    assert embedder.calls[0] == {
        "items": [{"text": "a"}],
        "mode": "gen",
        "n": 2,
        "numbers": range(1),
        "max_new_tokens": 9,
        "temperature": 0.7,
        "seed": 5,
        "batch_size": 4,
        "readout": "after",
    }


def test_npz_holds_arrays_that_load_without_pickles(run, embedder, tmp_path):
    path = tmp_path / "new" / "out.npz"
    assert run("embed", "a", "b", "-o", path).status == 0
    with np.load(path, allow_pickle=False) as file:
        assert file["ids"].tolist() == ["a", "b"]
        assert file["gen"].dtype == np.float32
        np.testing.assert_array_equal(file["gen"][0], embedder._vector({"text": "a"}))
        assert file["summary"].tolist() == ["thing", "thing"]
        assert str(file["model"]) == "tiny@0"


def test_jsonl_holds_an_object_per_item(run, embedder, tmp_path):
    path = tmp_path / "out.jsonl"
    assert run("embed", "a", "b", "-o", path, "--mode", "disc").status == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert set(rows[0]) == {"id", "disc"}


def test_a_bad_output_name_is_refused_before_the_model_runs(run, embedder, tmp_path):
    result = run("embed", "a", "-o", tmp_path / "out.pkl")
    assert (result.status, embedder.calls) == (1, [])
    assert "need a name that ends in .npz or .jsonl, or a directory's" in result.err


def test_the_engine_reaches_the_loader_and_an_unknown_one_is_refused(run, embedder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "umer1.cli.models.load_embedder", lambda *arguments: asked.append(arguments) or embedder
    )
    run("embed", "seven", "--engine", "vllm:http://one:8000", "--quiet")
    assert asked == [("tiny", None, "vllm:http://one:8000")]
    result = run("embed", "seven", "--engine", "vlmm:http://one:8000")
    assert "--engine: got 'vlmm:http://one:8000', wants" in result.err and len(asked) == 1


@pytest.mark.parametrize("option", ["--bad-items", "--workers", "--ray-address", "--shard-items"])
def test_options_of_a_cluster_are_refused_without_one(run, embedder, option):
    result = run("embed", "a", option, "1")
    assert result.status == 1 and f"{option}: wants --engine ray" in result.err
    assert embedder.calls == []
