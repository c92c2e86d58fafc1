"""/v1/indexes, /v1/search and thumbnails, on a real index and the bundled model."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from umer1 import Embedder
from umer1.retrieval import VectorIndex
from umer1.serving import ServerSettings, create_app
from umer1.serving.routes.thumbnails import SIDE

testclient = pytest.importorskip("fastapi.testclient")
TEXTS = ("zero", "one", "two", "three")
IDENTITY = "tiny@test"


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny")


@pytest.fixture(scope="module")
def encoded(embedder):
    return embedder.encode(list(TEXTS), "both", max_new_tokens=32, progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, a directory of frames, a file that is none, one outside."""
    root = tmp_path_factory.mktemp("collection")
    (root / "clip").mkdir()
    (root / "index").mkdir()
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    Image.new("RGB", (900, 600), (200, 30, 30)).save(root / "red.jpg", exif=exif)
    for number in range(8):
        Image.new("RGB", (400, 300), (0, 30 * number, 90)).save(root / "clip" / f"{number}.png")
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture(scope="module")
def client(embedder, encoded, root):
    entries = [
        {"text": TEXTS[0], "summary": encoded.summary[0]},
        {"image": str(root / "red.jpg"), "text": TEXTS[1]},
        {"video": [str(root / "clip" / f"{number}.png") for number in range(8)]},
        {"image": "../../red.jpg", "text": {"not": "a text"}},
    ]
    index = VectorIndex.create(
        root / "index" / "both", model=IDENTITY, dimension=embedder.dimension
    )
    index.add(list(TEXTS), {"disc": encoded.disc, "gen": encoded.gen}, entries)
    only = VectorIndex.create(
        root / "index" / "gen", model=IDENTITY, dimension=embedder.dimension, modes=("gen",)
    )
    others = [
        "broken.png",
        "notes.txt",
        "missing.png",
        "http://127.0.0.1/x.png",
        "data:image/png;base64,",
    ]
    only.add(
        [f"n{number}" for number in range(len(others))],
        {"gen": np.repeat(encoded.gen[:1], len(others), 0)},
        [{"image": one if ":" in one else str(root / one)} for one in others],
    )
    settings = ServerSettings(model_identity=IDENTITY)
    app = create_app(embedder, settings, {"both": index, "gen": only})
    with testclient.TestClient(app) as client:
        yield client


def post(client, **body):
    return client.post("/v1/search", json=body)


def test_indexes_are_listed(client):
    rows = client.get("/v1/indexes").json()["data"]
    assert [(row["name"], row["items"], row["modes"]) for row in rows] == [
        ("both", 4, ["disc", "gen"]),
        ("gen", 5, ["gen"]),
    ]
    assert {row["model"] for row in rows} == {IDENTITY}
    assert [row["aligned"] for row in rows] == [False, False]


def test_vectors_find_what_offline_products_find(client, encoded):
    vector = {"disc": encoded.disc[2].tolist(), "gen": encoded.gen[2].tolist()}
    answer = post(client, index="both", vector=vector, modes=["disc", "gen", "fused"], k=3).json()
    products = {
        mode: getattr(encoded, mode) @ getattr(encoded, mode)[2] for mode in ("disc", "gen")
    }
    products["fused"] = (products["disc"] + products["gen"]) / 2
    assert list(answer["results"]) == ["disc", "gen", "fused"]
    for mode, hits in answer["results"].items():
        best = np.argsort(-products[mode], kind="stable")[:3]
        assert [hit["number"] for hit in hits] == best.tolist()
        assert [hit["id"] for hit in hits] == [TEXTS[number] for number in best]
        np.testing.assert_allclose([hit["score"] for hit in hits], products[mode][best], atol=1e-5)
    assert "query" not in answer


@pytest.mark.parametrize("source", ["input", "messages"])
def test_a_text_is_embedded_as_offline(client, encoded, source):
    given = {
        "input": {"input": "three"},
        "messages": {"messages": [{"role": "user", "content": "three"}]},
    }[source]
    answer = post(client, index="both", modes=["disc", "gen"], k=1, max_tokens=32, **given).json()
    for mode in ("disc", "gen"):
        (hit,) = answer["results"][mode]
        assert hit["id"] == "three" and hit["score"] == pytest.approx(1, abs=1e-5)
    assert answer["query"]["summary"] == encoded.summary[3]
    assert answer["query"]["finish"] == "gen_emb"


def test_results_hold_what_the_index_has(client, encoded):
    vector = {"gen": encoded.gen[0].tolist()}
    hits = post(client, index="both", vector=vector, k=4).json()["results"]["gen"]
    by_id = {hit["id"]: hit for hit in hits}
    assert by_id["zero"]["text"] == "zero" and by_id["zero"]["thumbnail"] is None
    assert by_id["zero"]["summary"] == encoded.summary[0]
    assert by_id["one"]["thumbnail"] == "/v1/indexes/both/items/1/thumbnail?data=data-000001"
    assert by_id["three"]["text"] == ""
    kinds = {name: hit["kind"] for name, hit in by_id.items()}
    assert kinds == {"zero": "text", "one": "image", "two": "video", "three": "image"}


@pytest.mark.parametrize(
    "body, status, code, fragment",
    [
        ({"index": "nothing", "input": "x"}, 404, "index_not_found", "there is: both, gen"),
        ({"index": "../both", "input": "x"}, 404, "index_not_found", "no index"),
        ({"input": "x"}, 400, "bad_request", "index"),
        ({"index": "both"}, 400, "bad_request", "wants one of"),
        ({"index": "both", "input": "x", "vector": {"gen": [1.0]}}, 400, "bad_request", "one of"),
        ({"index": "gen", "input": "x", "modes": ["disc"]}, 400, "mode_not_indexed", "holds gen"),
        ({"index": "gen", "input": "x", "modes": ["fused"]}, 400, "mode_not_indexed", "holds gen"),
        ({"index": "both", "input": "x", "modes": ["best"]}, 400, "bad_request", "modes"),
        ({"index": "both", "input": "x", "modes": []}, 400, "bad_request", "modes"),
        ({"index": "both", "vector": {"gen": [1.0, 0.0]}}, 400, "bad_vector", "gen"),
        ({"index": "both", "vector": {"disc": [1.0]}}, 400, "bad_vector", "gen is missing"),
        ({"index": "both", "vector": {"gen": [0.0] * 128}}, 400, "bad_vector", "length"),
        ({"index": "both", "vector": {"gen": ["1"]}}, 400, "bad_request", "vector"),
        ({"index": "both", "input": "x", "k": 0}, 400, "bad_request", "k"),
        ({"index": "both", "input": "x", "k": 100000}, 400, "bad_request", "k"),
        ({"index": "both", "input": "x", "sort": 1}, 400, "bad_request", "sort"),
        ({"index": "both", "input": "x", "model": "gpt"}, 404, "model_not_found", "gpt"),
        (
            {"index": "both", "input": "x", "max_tokens": 10**6},
            400,
            "max_tokens_too_large",
            "max_tokens",
        ),
    ],
)
def test_bad_requests_are_refused(client, embedder, body, status, code, fragment):
    if body.get("vector") == {"gen": [0.0] * 128}:
        body = {**body, "vector": {"gen": [0.0] * embedder.dimension}}
    answer = post(client, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert fragment in error["message"]


@pytest.mark.parametrize("number", ["NaN", "1e400", "-Infinity"])
def test_numbers_that_are_none_are_refused(client, number):
    body = f'{{"index": "both", "vector": {{"gen": [{number}]}}}}'
    answer = client.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_thumbnail_is_a_small_new_jpeg(client):
    answer = client.get("/v1/indexes/both/items/1/thumbnail")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (SIDE, SIDE * 2 // 3) and not image.getexif()
    assert b"secret" not in answer.content
    assert np.abs(np.array(image)[100, 100].astype(int) - [200, 30, 30]).max() < 6


def test_a_clip_is_shown_as_frames_side_by_side(client):
    content = client.get("/v1/indexes/both/items/2/thumbnail").content
    image = np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert image.shape == (120, 480, 3)
    # frames 0, 3 and 7
    for place, green in enumerate((0, 90, 210)):
        assert np.abs(image[60, 80 + 160 * place] - [0, green, 90]).max() < 6


@pytest.mark.parametrize(
    "address",
    [
        "both/items/0",  # a text
        "both/items/3",  # a relative path that leaves the index
        "both/items/9",
        "both/items/-1",
        "gen/items/0",  # damaged
        "gen/items/1",  # no picture
        "gen/items/2",  # missing
        "gen/items/3",  # an address: never fetched
        "gen/items/4",
        "nothing/items/0",
    ],
)
def test_what_has_no_thumbnail_is_not_found(client, root, address):
    answer = client.get(f"/v1/indexes/{address}/thumbnail")
    assert answer.status_code == 404
    assert str(root) not in answer.text


def test_nothing_is_asked_of_addresses(client, encoded):
    vector = {"gen": encoded.gen[0].tolist()}
    hits = post(client, index="gen", vector=vector, k=5).json()["results"]["gen"]
    shown = {hit["id"]: hit["thumbnail"] is not None for hit in hits}
    assert shown == {"n0": True, "n1": True, "n2": True, "n3": False, "n4": False}


def test_an_index_of_another_model_is_refused_at_the_start(embedder, tmp_path):
    index = VectorIndex.create(tmp_path / "i", model="other@1", dimension=embedder.dimension)
    with pytest.raises(ValueError, match=r"made with other@1.*build it again"):
        create_app(embedder, ServerSettings(model_identity=IDENTITY), {"photos": index})
    for name in ("a/b", "..", "", "a b"):
        with pytest.raises(ValueError, match="wants a name of letters"):
            create_app(embedder, ServerSettings(model_identity="other@1"), {name: index})


def test_what_is_written_while_it_is_served_is_found(embedder, encoded, tmp_path, monkeypatch, caplog, wait_until):  # fmt: skip
    """Added and deleted by another process, numbered anew, then replaced by an index of another model."""
    monkeypatch.setattr("umer1.serving.fresh_indexes.SECONDS", 0.02)
    place, ids = tmp_path / "photos", list(TEXTS)
    vectors = {"gen": encoded.gen}
    Image.new("RGB", (90, 60)).save(tmp_path / "red.png")
    entries = [{"image": str(tmp_path / "red.png"), "text": name} for name in TEXTS]

    def new(model=IDENTITY):
        return VectorIndex.create(place, model=model, dimension=embedder.dimension, modes=("gen",))

    new()
    app = create_app(
        embedder, ServerSettings(model_identity=IDENTITY), {"photos": VectorIndex.open(place)}
    )
    with testclient.TestClient(app) as client:

        def found():
            vector = {"gen": encoded.gen[0].tolist()}
            return post(client, index="photos", vector=vector, k=9).json()["results"]["gen"]

        assert found() == []
        other = VectorIndex.open(place)
        other.add(ids, vectors, entries)
        wait_until(lambda: len(found()) == 4)
        old = {hit["id"]: hit["thumbnail"] for hit in found()}
        assert client.get(old["three"]).status_code == 200
        other.delete(["zero", "one"])
        other.optimize()
        wait_until(lambda: {hit["id"] for hit in found()} == {"two", "three"})
        wait_until(lambda: found()[0]["thumbnail"].endswith("?data=data-000002"))
        refused = client.get(old["three"])
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "item_not_found")
        assert {client.get(hit["thumbnail"]).status_code for hit in found()} == {200}
        place.rename(tmp_path / "before")
        new("other@1").add(ids[:1], {"gen": encoded.gen[:1]})
        wait_until(lambda: "another index now, of model 'other@1'" in caplog.text)
        assert {hit["id"] for hit in found()} == {"two", "three"}
        time.sleep(0.2)
        assert caplog.text.count("another index now") == 1
