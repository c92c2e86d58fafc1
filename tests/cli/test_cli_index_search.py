"""index and search: building, going on, deleting, refusals."""

import json
import logging

import pytest
from PIL import Image

from umer1 import Embedder
from umer1.retrieval import VectorIndex


@pytest.fixture
def photo_index(run, embedder, photos, tmp_path):
    path = tmp_path / "photos.index"
    assert run("index", "build", path, photos, "-q").status == 0
    embedder.calls.clear()
    return path


def test_search_in_items_finds_the_equal_one_first(run, embedder, photos):
    result = run("search", photos / "p1.png", "--items", photos, "-k", 2, "--json")
    content = json.loads(result.out)
    hits = content["queries"][0]["results"]
    assert hits[0]["id"] == str(photos / "p1.png")
    assert len(hits) == 2
    assert hits[0]["score"] == pytest.approx(1)
    assert hits[0]["summary"] == "thing"


def test_an_index_is_built_and_searched(run, embedder, photos, photo_index):
    found = VectorIndex.open(photo_index)
    assert (len(found), found.model, found.modes) == (3, "tiny@0", ("disc", "gen"))
    assert found.entry(str(photos / "p2.png")) == {
        "image": str(photos / "p2.png"),
        "reasoning": "because",
        "summary": "thing",
    }
    result = run("search", photos / "p2.png", "--index", photo_index, "-k", 1)
    assert result.status == 0
    assert f"  1  1.0000  {photos / 'p2.png'}  (thing)" in result.out
    # only the query is embedded
    assert [len(call["items"]) for call in embedder.calls] == [1]


@pytest.mark.parametrize(
    ("mode", "embedded"), [("disc", "disc"), ("gen", "gen"), ("fused", "both"), (None, "gen")]
)
def test_queries_are_embedded_as_the_mode_needs(run, embedder, photo_index, mode, embedded):
    options = ["--mode", mode] if mode else []
    result = run("search", "x", "--index", photo_index, *options, "--json")
    assert json.loads(result.out)["mode"] == (mode or "gen")
    assert embedder.calls[0]["mode"] == embedded


def test_disc_queries_on_gen_items_warn_unless_aligned(run, embedder, photos, tmp_path, caplog):
    for aligned in (False, True):
        embedder.model.config.aligned_modes = aligned
        path = tmp_path / f"{aligned}.index"
        run("index", "build", path, photos)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "umer1"):
            assert run("search", "x", "-x", path, "--query-mode", "disc").status == 0
        assert ("was not trained with both modes aligned" in caplog.text) == (not aligned)


def test_building_again_embeds_only_what_is_missing(run, embedder, photos, photo_index):
    run("index", "delete", photo_index, photos / "p1.png")
    result = run("index", "build", photo_index, photos, "-q")
    assert "2 of 3 items are there" in result.err
    assert [call["items"] for call in embedder.calls] == [[{"image": str(photos / "p1.png")}]]
    assert embedder.calls[0]["numbers"] == [1]
    assert len(VectorIndex.open(photo_index)) == 3


def test_a_stopped_run_keeps_what_has_finished(run, embedder, photos, tmp_path, monkeypatch):
    whole = embedder.stream

    def breaks(items, **options):
        yield next(whole(items, **options))
        raise OSError("the disk is gone")

    monkeypatch.setattr(embedder, "stream", breaks)
    path = tmp_path / "a.index"
    assert "the disk is gone" in run("index", "build", path, photos).err
    assert len(VectorIndex.open(path)) == 1


def test_damaged_pictures_stop_it_or_are_named_and_skipped(run, photos, tmp_path, monkeypatch):
    model = Embedder.load("tiny", device="cpu")
    monkeypatch.setattr("umer1.cli.models.load_embedder", lambda *_: model)
    (photos / "p1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    build = ["index", "build", tmp_path / "a.index", photos, "--mode", "disc", "-q"]
    stopped = run(*build)
    assert stopped.status == 1 and "p1.png" in stopped.err
    assert run(*build, "--bad-items", "record").err.count("wants stop or skip") == 1
    skipped = run(*build, "--bad-items", "skip")
    assert skipped.status == 0
    assert f"skipped {photos / 'p1.png'}: " in skipped.err
    assert "1 of " in skipped.err and "are not in the index" in skipped.err
    found = VectorIndex.open(tmp_path / "a.index")
    assert len(found) == 2 and str(photos / "p1.png") not in found
    Image.new("RGB", (28, 28), (80, 0, 0)).save(photos / "p1.png")  # mended
    assert run(*build, "--bad-items", "skip").status == 0
    assert len(VectorIndex.open(tmp_path / "a.index")) == 3


def test_building_with_other_settings_is_refused(run, embedder, photos, photo_index):
    result = run("index", "build", photo_index, photos, "--dtype", "int8")
    assert result.status == 1
    assert "is an index with dtype 'float32', not 'int8'; delete it to build it anew" in result.err
    result = run("index", "build", photo_index, photos, "--instruction", "Find:")
    assert "is an index with instruction None, not 'Find:'" in result.err
    assert embedder.calls == []


def test_adding_uses_the_settings_of_the_index(run, embedder, photos, tmp_path):
    path = tmp_path / "a.index"
    options = ["--instruction", "Find:", "--mode", "disc", "--readout", "after"]
    run("index", "build", path, photos, *options)
    embedder.calls.clear()
    assert run("index", "add", path, "seven", photos, "--max-new-tokens", 9).status == 0
    call = embedder.calls[0]
    assert call["items"] == [{"instruction": "Find:", "text": "seven"}]
    assert (call["mode"], call["readout"], call["max_new_tokens"]) == ("disc", "after", 9)
    assert VectorIndex.open(path).entry("seven") == {"text": "seven"}
    embedder.calls.clear()
    run("index", "add", path, "seven", "--replace")
    assert len(embedder.calls) == 1
    assert len(VectorIndex.open(path)) == 4


def test_delete_and_info(run, embedder, photos, photo_index, monkeypatch):
    result = run("index", "delete", photo_index, photos / "p1.png", "nobody", "--json")
    assert "deleted 1 of 2 ids" in result.err
    content = json.loads(result.out)
    assert (content["items"], content["model"], content["modes"]) == (2, "tiny@0", ["disc", "gen"])
    assert "items          2" in run("index", "info", photo_index).out


def test_shorter_vectors_warn_unless_trained(run, embedder, photos, tmp_path):
    for trained in ((), (8, 16)):
        embedder.model.config.matryoshka_dimensions = trained
        path = tmp_path / f"{len(trained)}.index"
        result = run("index", "build", path, photos, "--dimension", 8, "-q")
        assert ("was not trained for vectors of 8 numbers" in result.err) == (not trained)
        found = VectorIndex.open(path)
        assert (found.dimension, found.manifest.cut_from) == (8, 16)
    result = run("search", photos / "p0.png", "-x", path, "-k", 1)
    assert f"1.0000  {photos / 'p0.png'}" in result.out
    wide = run("index", "build", tmp_path / "c", photos, "--dimension", 17)
    assert "--dimension: got 17, the model's vectors have 16" in wide.err
    assert not (tmp_path / "c").exists()


def test_an_index_of_another_model_or_readout_is_refused(run, embedder, photos, tmp_path):
    index = tmp_path / "photos.index"
    run("index", "build", index, photos, "--mode", "disc")
    other = run("search", "x", "--index", index, "--mode", "disc", "--model", "other")
    assert other.status == 1
    assert "was made with tiny@0, the model here is other@0" in other.err
    assert "the model here is other@0" in run("index", "add", index, "x", "--model", "other").err
    after = run("search", "x", "--index", index, "--mode", "disc", "--readout", "after")
    assert "holds disc vectors read 'at' their token, not 'after' it" in after.err
    gen = run("search", "x", "--index", index, "--mode", "gen")
    assert "the index holds disc" in gen.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["x"],
        ["x", "--index", "a", "--items", "b"],
        ["--index", "b"],
        ["x", "--index", "a", "--mode", "best"],
        ["x", "--index", "a", "--mode", "fused", "--query-mode", "disc"],
    ],
)
def test_search_options_that_do_not_fit_are_wrong_usage(run, embedder, arguments):
    result = run("search", *arguments)
    assert result.status == 2
    assert embedder.calls == []


def test_no_index_there(run, embedder, tmp_path):
    for command in (["search", "x", "--index"], ["index", "info"]):
        result = run(*command, tmp_path)
        assert result.status == 1
        assert "no index here" in result.err
