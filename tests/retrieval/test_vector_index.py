"""The index: exact results, round trips, refusals."""

import numpy as np
import pytest

from umer1.retrieval import VectorIndex


@pytest.mark.parametrize("k", [1, 5, 62, 63, 100])
@pytest.mark.parametrize("mode", ["disc", "gen", "fused"])
def test_search_is_exact(index, unit, k, mode):
    queries = {"disc": unit(2, 27), "gen": unit(3, 27)}
    found = index.search(queries, k, mode)
    exact = {
        name: queries[name].astype(np.float64) @ unit(seed, 63).astype(np.float64).T
        for seed, name in enumerate(queries)
    }
    wanted = sum(exact.values()) / 2 if mode == "fused" else exact[mode]
    order = np.argsort(-wanted, axis=1)[:, :k]
    assert [[hit.number for hit in hits] for hits in found] == order.tolist()
    assert [[hit.id for hit in hits] for hits in found] == [[f"p{n}" for n in row] for row in order]
    scores = [[hit.score for hit in hits] for hits in found]
    np.testing.assert_allclose(scores, np.take_along_axis(wanted, order, 1), atol=1e-6)
    assert found[0][0].entry == {"text": f"text {order[0, 0]}"}


def test_a_score_does_not_depend_on_the_other_queries(index, unit):
    queries = unit(2, 64)
    together = index.search({"disc": queries}, 5, "disc")
    alone = [index.search({"disc": query[None]}, 5, "disc")[0] for query in queries]
    assert together == alone


def test_ties_come_in_row_order_however_many(tmp_path, unit):
    index = VectorIndex.create(tmp_path / "b", model="m", dimension=24, modes=("gen",))
    same, better = unit(0, 2)
    rows = np.tile(same, (300, 1))
    rows[140] = better
    index.add([f"p{n}" for n in range(300)], {"gen": rows})
    query = (same + better) / np.linalg.norm(same + better)
    query = 0.9 * better + 0.1 * query
    query = (query / np.linalg.norm(query)).astype(np.float32)
    hits = index.search({"gen": np.tile(query, (25, 1))}, 5)
    assert [[hit.number for hit in found] for found in hits] == [[140, 0, 1, 2, 3]] * 25


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 5e-4), ("int8", 5e-3)])
def test_a_round_trip_keeps_everything(tmp_path, unit, dtype, error):
    directory = tmp_path / "b"
    index = VectorIndex.create(
        directory, model="m", dimension=24, dtype=dtype, readout="after", instruction="Find:"
    )
    vectors = {"disc": unit(0, 63), "gen": unit(1, 63)}
    names = [f"ü {n}\n" for n in range(63)]
    for part in (slice(0, 20), slice(20, 21), slice(21, 63)):
        given = {mode: rows[part] for mode, rows in vectors.items()}
        index.add(names[part], given, [{"text": name} for name in names[part]])
    back = VectorIndex.open(directory)
    assert [(number, name) for number, name, _ in back.items()] == list(enumerate(names))
    assert (back.model, back.manifest.readout, back.manifest.instruction) == ("m", "after", "Find:")
    assert back.entry(names[40]) == {"text": names[40]}
    for mode, rows in vectors.items():
        np.testing.assert_allclose(back.vectors(mode, range(63)), rows, atol=error)
    for queries in (unit(3, 3), unit(3, 30)):
        hits = back.search({"gen": queries}, 1)
        exact = (queries @ back.vectors("gen", range(63)).T).max(axis=1)
        np.testing.assert_allclose([found[0].score for found in hits], exact, atol=1e-6)
    size = sum((back.directory / "data-000001" / f"{m}.vectors").stat().st_size for m in vectors)
    assert size == 2 * 63 * {"float32": 96, "float16": 48, "int8": 28}[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_deleted_items_are_not_found(tmp_path, unit, dtype):
    index = VectorIndex.create(tmp_path / "b", model="m", dimension=24, modes=("gen",), dtype=dtype)
    index.add([f"p{n}" for n in range(63)], {"gen": unit(1, 63)})
    queries = index.vectors("gen", range(63))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    gone = [f"p{n}" for n in range(0, 63, 3)]
    assert index.delete([*gone, "nobody"]) == 21
    assert index.delete(gone) == 0
    for opened in (index, VectorIndex.open(index.directory)):
        assert len(opened) == 42
        assert "p3" not in opened
        with pytest.raises(KeyError):
            opened.entry("p3")
        with pytest.raises(KeyError):
            opened.item(3)
        found = {hit.id for hits in opened.search({"gen": queries}, 63) for hit in hits}
        assert found == {f"p{n}" for n in range(63) if n % 3}
    index.add(["p3"], {"gen": unit(1, 63)[3:4]}, [{"text": "again"}])
    assert index.search({"gen": queries[3:4]}, 1)[0][0].entry == {"text": "again"}


def test_upkeep_drops_deleted_rows(index, unit):
    index.delete([f"p{n}" for n in range(20)])
    before = index.describe()
    index.optimize()
    after = index.describe()
    assert (before["deleted_rows"], after["deleted_rows"], after["items"]) == (20, 0, 43)
    assert after["bytes"] < before["bytes"]
    assert [path.name for path in index.directory.glob("data-*")] == ["data-000002"]
    for opened in (index, VectorIndex.open(index.directory)):
        hit = opened.search({"disc": unit(0, 63)[30:31]}, 1, "disc")[0][0]
        assert (hit.id, hit.number, hit.entry) == ("p30", 10, {"text": "text 30"})


def test_replacing_keeps_one_item_per_id(index, unit):
    new = {"disc": unit(5, 2), "gen": unit(6, 2)}
    with pytest.raises(ValueError, match="ids: 'p1' is in the index already"):
        index.add(["x", "p1"], new)
    assert "x" not in index
    index.add(["x", "p1"], new, [{}, {"text": "new"}], replacing=True)
    assert len(index) == 64
    assert index.entry("p1") == {"text": "new"}
    assert index.search({"gen": unit(6, 2)[1:]}, 1)[0][0].id == "p1"


def test_cut_vectors_take_the_models_own(tmp_path, unit):
    index = VectorIndex.create(tmp_path / "b", model="m", dimension=8, cut_from=24, modes=("disc",))
    index.add([f"p{n}" for n in range(63)], {"disc": unit(0, 63)})
    cut = unit(0, 63)[:, :8]
    cut = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors("disc", range(63)), cut, atol=1e-7)
    for queries in (unit(0, 63), cut):
        found = index.search({"disc": queries}, 1, "disc")
        assert [hits[0].number for hits in found] == list(range(63))


def test_queries_of_the_other_mode_warn_unless_aligned(tmp_path, unit, caplog):
    for aligned in (False, True):
        index = VectorIndex.create(
            tmp_path / f"{aligned}", model="m@1", dimension=24, aligned=aligned
        )
        index.add(["a", "b"], {"disc": unit(0, 2), "gen": unit(1, 2)})
        caplog.clear()
        assert index.search({"disc": unit(1, 2)[1:]}, 1, "gen")[0][0].id == "b"
        assert ("m@1 was not trained with both modes aligned" in caplog.text) == (not aligned)
        index.search({"disc": unit(1, 2), "gen": unit(1, 2)}, 1, "gen")
        assert len(caplog.records) == (not aligned)


def test_an_empty_index_finds_nothing(tmp_path, unit):
    index = VectorIndex.create(tmp_path / "b", model="m", dimension=24)
    index.optimize()
    assert index.search({"gen": unit(0, 3)}, 5) == [[], [], []]
    assert index.search({"gen": unit(0, 0)}, 5) == []
    index.add([], {"disc": unit(0, 0), "gen": unit(0, 0)})
    assert len(VectorIndex.open(index.directory)) == 0


BAD_SETTINGS = [
    ({"model": ""}, "model: got ''"),
    ({"dimension": 0}, "dimension: got 0"),
    ({"dimension": True}, "dimension: got True"),
    ({"dimension": 8, "cut_from": 4}, "cut_from: got 4"),
    ({"modes": ()}, r"modes: got \(\)"),
    ({"modes": ("both",)}, "modes: got 'both', wants one of disc, gen"),
    ({"modes": ("gen", "gen")}, "wants distinct"),
    ({"kind": "annoy"}, "kind: got 'annoy', wants one of auto, flat, ivfpq, hnsw"),
    ({"dtype": "int4"}, "dtype: got 'int4'"),
    ({"readout": "before"}, "readout: got 'before'"),
    ({"instruction": 3}, "instruction: got 3"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_bad_settings_write_nothing(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        VectorIndex.create(tmp_path / "b", **{"model": "m", "dimension": 8, **settings})
    assert not (tmp_path / "b").exists()


def test_create_leaves_other_directories_alone(index, tmp_path):
    with pytest.raises(ValueError, match="there is an index already"):
        VectorIndex.create(index.directory, model="m", dimension=8)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds letter.txt, an index wants a directory of its own"):
        VectorIndex.create(tmp_path / "mine", model="m", dimension=8)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


BAD_ADDS = [
    (["a"], {"disc": (0, 1, 24)}, None, "vectors: gen is missing"),
    (
        ["a"],
        {"disc": (0, 1, 24), "gen": (0, 2, 24)},
        None,
        r"gen is float32 \[2, 24\], wants .*1, 24",
    ),
    (["a"], {"disc": (0, 1, 24), "gen": (0, 1, 8)}, None, r"gen is float32 \[1, 8\]"),
    (["a"], {"disc": (0, 1, 24), "both": (0, 1, 24)}, None, "vectors: got 'both'"),
    (["a", "a"], {"disc": (0, 2, 24), "gen": (0, 2, 24)}, None, "ids: 'a' is there twice"),
    ([3], {"disc": (0, 1, 24), "gen": (0, 1, 24)}, None, "ids: number 0 is 3"),
    ("a", {"disc": (0, 1, 24), "gen": (0, 1, 24)}, None, "ids: got one text"),
    (["a"], {"disc": (0, 1, 24), "gen": (0, 1, 24)}, [{}, {}], "entries: got 2 for 1 ids"),
    (["a"], {"disc": (0, 1, 24), "gen": (0, 1, 24)}, ["x"], "entries: number 0 is str"),
    (["a"], {"disc": (0, 1, 24), "gen": (0, 1, 24)}, [{"x": b"1"}], "entries: .* as JSON"),
    (["a"], {"disc": (0, 1, 24), "gen": (0, 1, 24)}, [{"x": float("nan")}], "entries: .* as JSON"),
    (["\ud800"], {"disc": (0, 1, 24), "gen": (0, 1, 24)}, None, "as JSON"),
]


@pytest.mark.parametrize(("ids", "shapes", "entries", "message"), BAD_ADDS)
def test_bad_items_write_nothing(index, unit, ids, shapes, entries, message):
    before = {path: path.read_bytes() for path in index.directory.rglob("*") if path.is_file()}
    vectors = {mode: unit(*shape) for mode, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        index.add(ids, vectors, entries)
    after = {path: path.read_bytes() for path in index.directory.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows * np.nan, "gen holds values that are not finite"),
        (lambda rows: 2 * rows, "gen: row 0 has length 2, wants unit length"),
        (lambda rows: 0 * rows, "gen: row 0 has length 0"),
        (lambda rows: rows[0], r"gen is float32 \[24\], wants float32 \[n, 24\]"),
        (lambda rows: np.ones((3, 24), int), r"gen is int64 \[3, 24\]"),
    ],
)
def test_bad_vectors_are_one_clear_error(index, unit, spoil, message):
    with pytest.raises(ValueError, match="queries: " + message):
        index.search({"gen": spoil(unit(0, 3))})
    with pytest.raises(ValueError, match="vectors: gen"):
        index.add(["a", "b", "c"], {"disc": unit(0, 3), "gen": spoil(unit(0, 3))})
    assert len(VectorIndex.open(index.directory)) == 63


def test_bad_queries(index, unit):
    for k in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match="k: got"):
            index.search({"gen": unit(0, 1)}, k)
    with pytest.raises(ValueError, match="mode: got 'both', wants one of disc, gen, fused"):
        index.search({"gen": unit(0, 1)}, mode="both")
    with pytest.raises(ValueError, match="mode 'fused' wants disc and gen, disc is missing"):
        index.search({"gen": unit(0, 1)}, mode="fused")
    with pytest.raises(ValueError, match="queries: got ndarray, wants arrays by mode"):
        index.search(unit(0, 1))
    with pytest.raises(ValueError, match="disc and gen differ in their number of rows"):
        index.search({"gen": unit(0, 1), "disc": unit(0, 2)}, mode="fused")


def test_modes_that_are_not_there(tmp_path, unit):
    index = VectorIndex.create(tmp_path / "b", model="m", dimension=24, modes=("disc",))
    for mode in ("gen", "fused"):
        with pytest.raises(ValueError, match="the index holds disc, not gen"):
            index.search({"gen": unit(0, 1), "disc": unit(0, 1)}, mode=mode)
    with pytest.raises(ValueError, match="was made with m, the model here is other"):
        index.check_model("other")
    with pytest.raises(ValueError, match="read 'at' their token, not 'after' it"):
        index.check_model("m", "after")
    index.check_model("m", "at")
