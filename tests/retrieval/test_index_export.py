"""Exports, read by the programs they are for."""

import json

import pytest

from umer1.retrieval.export import export_index, point_id


@pytest.fixture
def gone(index):
    """The index without p3, with an entry of every kind."""
    index.delete(["p3"])
    entry = {"text": "ü", "image": "/a.png", "images": ["/a.png"], "summary": "s", "reasoning": "r"}
    vectors = {mode: index.vectors(mode, [5]) for mode in ("disc", "gen")}
    index.add(["new"], vectors, [entry])
    return index


def test_parquet(gone, unit, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out" / "a.parquet"
    export_index(gone, "parquet", str(path), "a")
    table = parquet.read_table(path)
    assert table.schema.metadata[b"model"] == b"m@1"
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [f"p{n}" for n in range(63) if n != 3] + ["new"]
    assert rows[5]["disc"] == unit(0, 63)[6].tolist()
    assert rows[-1]["gen"] == unit(1, 63)[5].tolist()
    assert (rows[-1]["text"], rows[-1]["image"], rows[-1]["video"]) == ("ü", "/a.png", None)
    assert json.loads(rows[-1]["entry"])["images"] == ["/a.png"]


def test_lancedb(gone, unit, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    export_index(gone, "lancedb", str(tmp_path / "lance"), "photos")
    table = lancedb.connect(tmp_path / "lance").open_table("photos")
    assert table.count_rows() == 63
    query = unit(7, 1)[0]
    found = table.search(query, vector_column_name="gen").distance_type("cosine").limit(5).to_list()
    wanted = gone.search({"gen": query[None]}, 5)[0]
    assert [row["id"] for row in found] == [hit.id for hit in wanted]
    with pytest.raises(ValueError, match="photos.lance: is there already"):
        export_index(gone, "lancedb", str(tmp_path / "lance"), "photos")


def test_qdrant(gone, unit, tmp_path):
    qdrant = pytest.importorskip("qdrant_client")
    export_index(gone, "qdrant", str(tmp_path / "qdrant"), "photos")
    with pytest.raises(ValueError, match="has a collection 'photos' already"):
        export_index(gone, "qdrant", str(tmp_path / "qdrant"), "photos")
    client = qdrant.QdrantClient(path=str(tmp_path / "qdrant"))
    assert client.count("photos").count == 63
    for mode in ("disc", "gen"):
        query = unit(7, 1)[0]
        found = client.query_points("photos", query.tolist(), using=mode, limit=5).points
        wanted = gone.search({mode: query[None]}, 5, mode)[0]
        assert [point.payload["id"] for point in found] == [hit.id for hit in wanted]
        assert [point.score for point in found] == pytest.approx(
            [h.score for h in wanted], abs=1e-5
        )
    (point,) = client.retrieve("photos", [point_id("new")], with_vectors=True)
    assert point.payload["summary"] == "s"
    client.close()


@pytest.mark.parametrize("form", ["parquet", "lancedb", "qdrant"])
def test_a_failure_leaves_nothing_half_written(gone, tmp_path, form):
    pytest.importorskip({"parquet": "pyarrow", "qdrant": "qdrant_client"}.get(form, form))
    items = gone.items

    def damaged():
        yield from list(items())[:2]
        raise ValueError("row 2: not an item")

    gone.items = damaged
    place = tmp_path / "out.parquet" if form == "parquet" else tmp_path / "out"
    with pytest.raises((ValueError, OSError), match="row 2: not an item"):
        export_index(gone, form, str(place), "photos")
    gone.items = items
    export_index(gone, form, str(place), "photos")


def test_refusals(index, tmp_path):
    with pytest.raises(ValueError, match="form: got 'csv', wants one of parquet, lancedb, qdrant"):
        export_index(index, "csv", str(tmp_path / "b"), "a")
    index.delete([f"p{n}" for n in range(63)])
    with pytest.raises(ValueError, match="holds nothing to export"):
        export_index(index, "parquet", str(tmp_path / "b"), "a")
    assert not (tmp_path / "b").exists()
