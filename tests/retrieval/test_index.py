"""The index: exact results, round trips, files that are refused."""

import json
import pickle

import numpy as np
import pytest

from umer1.retrieval import Index
from umer1.retrieval.top_k import top_k


def unit(seed, rows, dimension=24):
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def index():
    entries = [{"text": f"text {n}"} for n in range(63)]
    ids = [f"p{n}" for n in range(63)]
    return Index.build(ids, {"disc": unit(0, 63), "gen": unit(1, 63)}, model="m", entries=entries)


@pytest.mark.parametrize("k", [1, 5, 62, 63, 100])
@pytest.mark.parametrize("mode", ["disc", "gen"])
def test_search_is_exact(index, k, mode):
    queries = unit(2, 7)
    ids, scores = index.search(queries, k, mode=mode)
    exact = queries.astype(np.float64) @ index.vectors[mode].astype(np.float64).T
    order = np.argsort(-exact, axis=1)[:, :k]
    assert ids == [[f"p{row}" for row in found] for found in order]
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), atol=1e-6)


def test_a_vector_finds_itself(index):
    ids, scores = index.search(index.vectors["gen"], 1, mode="gen")
    assert [found[0] for found in ids] == index.ids
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_ties_come_in_row_order_also_at_the_edge_of_k():
    vectors = np.tile(unit(0, 1), (100, 1))
    vectors[40] *= 2
    rows, _ = top_k(vectors[:3], vectors, 5)
    assert rows.tolist() == [[40, 0, 1, 2, 3]] * 3


def test_blocks_of_queries_give_what_one_product_gives(monkeypatch):
    queries, vectors = unit(0, 63), unit(1, 199)
    whole = top_k(queries, vectors, 7)
    monkeypatch.setattr("umer1.retrieval.top_k.BLOCK", 500)
    blocked = top_k(queries, vectors, 7)
    np.testing.assert_array_equal(whole[0], blocked[0])
    np.testing.assert_allclose(whole[1], blocked[1], atol=1e-6)


def test_a_round_trip_keeps_everything(index, tmp_path):
    index.save(tmp_path / "a.index")
    back = Index.load(tmp_path / "a.index")
    assert (back.ids, back.model, back.readout) == (index.ids, "m", "at")
    assert back.entry("p3") == {"text": "text 3"}
    for mode, vectors in index.vectors.items():
        assert back.vectors[mode].dtype == np.float32
        np.testing.assert_array_equal(back.vectors[mode], vectors)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a.index",
        "index.json",
        "vectors.npz",
    ]


def test_saving_again_replaces_an_index_and_nothing_else(index, tmp_path):
    index.save(tmp_path / "a")
    Index.build(["x"], {"gen": unit(0, 1)}).save(tmp_path / "a")
    assert Index.load(tmp_path / "a").ids == ["x"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is no index, it is left alone"):
        index.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_the_index_does_not_change_with_the_callers_array():
    vectors = unit(0, 3)
    index = Index.build(["a", "b", "c"], {"gen": vectors})
    vectors[:] = 0
    assert np.linalg.norm(index.vectors["gen"]) > 1


BAD = [
    (["a", "a"], {"gen": unit(0, 2)}, "got 2 ids, 1 distinct"),
    ([], {"gen": unit(0, 0)}, "got 0 ids"),
    (["a"], {"gen": unit(0, 2)}, r"gen is float32 \[2, 24\], need float32 \[1, d\]"),
    (["a"], {"gen": unit(0, 1)[0]}, r"gen is float32 \[24\]"),
    (["a"], {"gen": unit(0, 1) * np.nan}, "not finite"),
    (["a"], {"gen": unit(0, 1), "disc": unit(0, 1, 8)}, "differ in dimension"),
    (["a"], {"both": unit(0, 1)}, "got .'both'."),
    (["a"], {}, "one or both of disc, gen"),
]


@pytest.mark.parametrize(("ids", "vectors", "message"), BAD)
def test_bad_input_is_one_clear_error(ids, vectors, message):
    with pytest.raises(ValueError, match=message):
        Index.build(ids, vectors)


def test_bad_queries(index):
    with pytest.raises(ValueError, match=r"queries: got \[24\], need \[m, 24\]"):
        index.search(unit(0, 1)[0], mode="gen")
    with pytest.raises(ValueError, match=r"queries: got \[1, 8\]"):
        index.search(unit(0, 1, 8), mode="gen")
    with pytest.raises(ValueError, match="mode: got None, the index holds disc and gen"):
        index.search(unit(0, 1))
    with pytest.raises(ValueError, match="k: got 0"):
        index.search(unit(0, 1), 0, mode="gen")
    with pytest.raises(ValueError, match="not finite"):
        index.search(unit(0, 1) * np.inf, mode="gen")


def corrupt(path, how):
    vectors, text = path / "vectors.npz", path / "index.json"
    content = json.loads(text.read_text())
    if how == "no json":
        text.unlink()
    elif how == "broken json":
        text.write_text(text.read_text()[:50])
    elif how == "other version":
        text.write_text(json.dumps({**content, "version": 9}))
    elif how == "field missing":
        del content["model"]
        text.write_text(json.dumps(content))
    elif how == "no vectors":
        vectors.unlink()
    elif how == "truncated":
        vectors.write_bytes(vectors.read_bytes()[:100])
    elif how == "pickle":
        vectors.write_bytes(pickle.dumps({"disc": unit(0, 63)}))
    elif how == "object array":
        np.savez(vectors, disc=np.array([{}] * 63, dtype=object), gen=unit(0, 63))
    elif how == "mode missing":
        np.savez(vectors, gen=unit(0, 63))
    elif how == "rows missing":
        np.savez(vectors, gen=unit(0, 5), disc=unit(0, 5))


REFUSED = {
    "no json": "no index here",
    "broken json": "index.json: not JSON",
    "other version": "index version 9",
    "field missing": "index.json has no 'model'",
    "no vectors": "cannot read the vectors",
    "truncated": "cannot read the vectors",
    "pickle": "cannot read the vectors",
    "object array": "cannot read the vectors",
    "mode missing": "cannot read the vectors",
    "rows missing": r"need float32 \[63, d\]",
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_bad_file_is_one_clear_error(index, tmp_path, how):
    index.save(tmp_path / "a")
    corrupt(tmp_path / "a", how)
    with pytest.raises(ValueError, match=REFUSED[how]):
        Index.load(tmp_path / "a")
