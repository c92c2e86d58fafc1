"""Graphs and codes: recall, later rows, deletions, upkeep, files that are damaged."""

import dataclasses
import json

import numpy as np
import pytest

from umer1.retrieval import VectorIndex, hnsw, ivfpq, structures
from umer1.retrieval.manifest import Manifest

ROWS, LATER = 1500, 300


def _points(seed, rows, dimension=32):
    """Points of 8 dimensions in 32: what an index can learn something about."""
    basis = np.random.default_rng(99).standard_normal((8, dimension))
    vectors = np.random.default_rng(seed).standard_normal((rows, 8)) @ basis
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS = {"disc": _points(0, ROWS + LATER), "gen": _points(1, ROWS + LATER)}
QUERIES = {"disc": _points(2, 40), "gen": _points(3, 40)}


def _build(directory, kind, dtype="float32", modes=("disc", "gen")):
    index = VectorIndex.create(
        directory, model="m", dimension=32, kind=kind, dtype=dtype, modes=modes
    )
    index.add([f"p{n}" for n in range(ROWS)], {mode: VECTORS[mode][:ROWS] for mode in modes})
    index.optimize()
    return index


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(structures, "LEAST_ROWS", 1000)


def _recall(found, exact):
    pairs = zip(found, exact, strict=True)
    return np.mean([len({h.id for h in a} & {h.id for h in b}) / len(b) for a, b in pairs])


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_recall_before_and_after_reading_the_files(tmp_path, few_rows, kind):
    flat, index = _build(tmp_path / "flat", "flat"), _build(tmp_path / "a", kind)
    assert index.describe()["structures"] == {
        space: {"kind": kind, "rows": ROWS} for space in ("disc", "gen", "fused")
    }
    for opened in (index, VectorIndex.open(index.directory)):
        for mode in ("disc", "gen", "fused"):
            exact = flat.search(QUERIES, 10, mode)
            found = opened.search(QUERIES, 10, mode)
            assert _recall(found, exact) > 0.9
            # scores are exact: those of the same items are the same
            scores = [{hit.id: hit.score for hit in hits} for hits in exact]
            assert all(
                hit.score == own.get(hit.id, hit.score)
                for hits, own in zip(found, scores, strict=True)
                for hit in hits
            )


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_graph_over_narrow_numbers(tmp_path, dtype):
    index = _build(tmp_path / "a", "hnsw", dtype, ("gen",))
    flat = _build(tmp_path / "b", "flat", dtype, ("gen",))
    back = VectorIndex.open(index.directory)
    assert _recall(back.search(QUERIES, 10), flat.search(QUERIES, 10)) > 0.97


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("deleted", [0, 1400])
def test_as_many_are_found_as_asked_for_or_there(tmp_path, few_rows, kind, deleted):
    """More than the cells hold that are looked into first; few left, in any cells."""
    index = _build(tmp_path / "a", kind, modes=("gen",))
    index.delete([f"p{n}" for n in range(deleted)])
    left = ROWS - deleted
    for k in (10, 100, 1200, 5000):
        assert {len(hits) for hits in index.search(QUERIES, k)} == {min(k, left)}


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_later_rows_are_found_and_taken_in(tmp_path, few_rows, kind):
    index = _build(tmp_path / "a", kind, modes=("gen",))
    names = [f"p{n}" for n in range(ROWS, ROWS + LATER)]
    for part in (slice(0, 100), slice(100, LATER)):
        rows = {"gen": VECTORS["gen"][ROWS:][part]}
        index.add(names[part], rows)
        index.optimize()
        found = index.search(rows, 1)
        assert [hits[0].id for hits in found] == names[part]
        # a tenth of new rows is not worth it, more is
        assert index.manifest.structures["gen"].rows == (ROWS if part.start == 0 else ROWS + LATER)
    flat = _build(tmp_path / "flat", "flat", modes=("gen",))
    flat.add(names, {"gen": VECTORS["gen"][ROWS:]})
    back = VectorIndex.open(index.directory)
    assert _recall(back.search(QUERIES, 10), flat.search(QUERIES, 10)) > 0.9
    # one file per structure remains
    assert len(list((index.directory / "data-000001").glob("*.numbers"))) == 1


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_deleted_rows_are_not_found(tmp_path, few_rows, kind):
    index = _build(tmp_path / "a", kind, modes=("gen",))
    best = [hits[0].id for hits in index.search(QUERIES, 1)]
    index.delete(list(dict.fromkeys(best)))
    for opened in (index, VectorIndex.open(index.directory)):
        found = opened.search(QUERIES, 10)
        assert all(len(hits) == 10 for hits in found)
        assert not {hit.id for hits in found for hit in hits} & set(best)


def test_the_kind_follows_from_the_size():
    manifest = Manifest(model="m", dimension=8, modes=("gen",))
    sizes = {0: "flat", 49_999: "flat", 50_000: "hnsw", 2_000_000: "ivfpq"}
    for rows, kind in sizes.items():
        assert structures.wanted_kind(dataclasses.replace(manifest, rows=rows)) == kind
    few = dataclasses.replace(manifest, kind="ivfpq", rows=9_999)
    assert structures.wanted_kind(few) == "flat"
    assert structures.wanted_kind(dataclasses.replace(few, rows=10_000)) == "ivfpq"


def test_code_sizes_divide_the_dimension():
    sizes = {dimension: ivfpq.code_bytes(dimension) for dimension in (4, 24, 100, 128, 1536)}
    assert sizes == {4: 1, 24: 3, 100: 10, 128: 16, 1536: 192}


def _spoiled(index, change):
    """The structure's file with other numbers, and a checksum that fits."""
    import zlib

    path = index.directory / "data-000001" / index.manifest.structures["gen"].file
    content = path.read_bytes()
    changed = change(np.frombuffer(content, "<i4").copy())
    path.write_bytes(changed.tobytes())
    manifest = json.loads((index.directory / "index.json").read_text())
    manifest["structures"]["gen"]["checksum"] = zlib.crc32(changed.tobytes())
    (index.directory / "index.json").write_text(json.dumps(manifest))
    return VectorIndex.open(index.directory)


def _put(place, value):
    def change(numbers):
        numbers[place] = value
        return numbers

    return change


HOSTILE_GRAPHS = {
    "a neighbour beyond the rows": (_put(ROWS, ROWS), "name rows that are not there"),
    "a negative neighbour": (_put(ROWS, -7), "name rows that are not there"),
    "a level of zero": (_put(3, 0), "levels of the graph"),
    "a huge level": (_put(3, 2**31 - 1), "levels of the graph"),
    "another level": (_put(3, 5), "are needed"),
    "cut short": (lambda numbers: numbers[:-1], "are needed"),
    "nothing": (lambda numbers: numbers[:0], "are no graph of 1500 rows"),
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return _build(tmp_path_factory.mktemp("graph") / "a", "hnsw", modes=("gen",))


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structures, "LEAST_ROWS", 1000)
        return _build(tmp_path_factory.mktemp("codes") / "a", "ivfpq", modes=("gen",))


def _copy(index, tmp_path):
    import shutil

    shutil.copytree(index.directory, tmp_path / "copy")
    return VectorIndex.open(tmp_path / "copy")


@pytest.mark.parametrize("case", HOSTILE_GRAPHS)
def test_a_hostile_graph_is_one_clear_error(graph, tmp_path, case):
    change, message = HOSTILE_GRAPHS[case]
    opened = _spoiled(_copy(graph, tmp_path), change)
    with pytest.raises(ValueError, match=message):
        opened.search(QUERIES, 5)


def test_a_neighbour_on_another_level_is_refused(graph, tmp_path):
    """FAISS would read that row's edges of a level it does not have: those of the next row."""
    path = graph.directory / "data-000001" / graph.manifest.structures["gen"].file
    levels = np.fromfile(path, "<i4", ROWS)
    high, low = int(levels.argmax()), int((levels == 1).argmax())
    before = 2 * hnsw.EDGES * high + hnsw.EDGES * int((levels[:high] - 1).sum())
    place = ROWS + before + 2 * hnsw.EDGES
    with pytest.raises(ValueError, match="neighbours are on another level"):
        _spoiled(_copy(graph, tmp_path), _put(place, low)).search(QUERIES, 5)


CELLS = ivfpq.cell_count(ROWS)
BOOKS = CELLS * 32 + 256 * 32
HOSTILE_CODES = {
    "a cell that is not there": (_put(BOOKS, CELLS), "cells that are not there"),
    "a negative cell": (_put(BOOKS, -1), "cells that are not there"),
    "centroids that are no numbers": (_put(0, 0x7FC00000), "centroids are not finite"),
    "cut short": (lambda numbers: numbers[:-1], "are no codes of 1500 rows"),
    "nothing": (lambda numbers: numbers[:0], "are no codes of 1500 rows"),
}


@pytest.mark.parametrize("case", HOSTILE_CODES)
def test_hostile_codes_are_one_clear_error(codes, tmp_path, case):
    change, message = HOSTILE_CODES[case]
    opened = _spoiled(_copy(codes, tmp_path), change)
    with pytest.raises(ValueError, match=message):
        opened.search(QUERIES, 5)


@pytest.mark.parametrize("how", ["flipped", "missing", "a pickle"])
def test_a_damaged_structure_is_one_clear_error(graph, tmp_path, how):
    index = _copy(graph, tmp_path)
    path = index.directory / "data-000001" / index.manifest.structures["gen"].file
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(b"\x80\x04." if how == "a pickle" else content)
    if how == "missing":
        path.unlink()
    message = "is missing" if how == "missing" else "its checksum is another"
    with pytest.raises(ValueError, match=f"{message}: the index is damaged"):
        index.search(QUERIES, 5)
    # the vectors are whole: a new structure can be made of them
    values = dataclasses.replace(index.manifest, structures={})
    values.write(index.directory)
    again = VectorIndex.open(index.directory)
    again.optimize()
    assert again.search({"gen": VECTORS["gen"][:3]}, 1)[2][0].id == "p2"
