"""Files of an index that are damaged, foreign or hostile: one clear error, nothing outside is read."""

import json
import pickle

import numpy as np
import pytest

from umer1.retrieval import VectorIndex


def _manifest(**changes):
    def change(directory):
        path = directory / "index.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _file(name, content):
    def change(directory):
        path = directory / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return change


def _without(name):
    def change(directory):
        path = directory / "index.json"
        values = json.loads(path.read_text())
        del values[name]
        path.write_text(json.dumps(values))

    return change


STRUCTURE = {"kind": "hnsw", "file": "hnsw-gen-000001.numbers", "rows": 63, "checksum": 0}
DATA = "data-000001"
REFUSED = {
    "no manifest": (_file("index.json", None), "no index here"),
    "half a manifest": (_file("index.json", lambda text: text[:50]), "index.json: not JSON"),
    "a pickle": (_file("index.json", pickle.dumps({"version": 2})), "index.json: not JSON"),
    "deep JSON": (_file("index.json", b"[" * 100_000), "index.json: not JSON"),
    "an endless manifest": (_file("index.json", b" " * (1 << 21)), "longer than"),
    "a list": (_file("index.json", b"[]"), "not the manifest of an index"),
    "another format": (_manifest(format="faiss"), "not the manifest of an index"),
    "another version": (_manifest(version=9), "index version 9, this program reads 2"),
    "the version before": (
        _file("index.json", b'{"version": 1, "model": "m", "ids": []}'), "index version 1"
    ),
    "a field missing": (_without("model"), "has no 'model'"),
    "a path as folder": (_manifest(folder="../../etc"), "folder: got '../../etc'"),
    "an absolute folder": (_manifest(folder="/etc"), "folder: got '/etc'"),
    "a folder that is a number": (_manifest(folder=3), "folder: got 3"),
    "a path as structure": (
        _manifest(structures={"gen": {**STRUCTURE, "file": "../../../etc/passwd"}}),
        "structures: got the file",
    ),
    "a structure of strange kind": (
        _manifest(structures={"gen": {**STRUCTURE, "kind": "lsh"}}), "structures: got 'lsh'"
    ),
    "a structure beyond the rows": (
        _manifest(structures={"gen": {**STRUCTURE, "rows": 64}}), "cover 64 of 63 rows"
    ),
    "a structure of nothing": (_manifest(structures={"gen": 3}), "index.json"),
    "structures as a list": (_manifest(structures=[1]), "index.json"),
    "modes as a text": (_manifest(modes="gen"), "modes: got 'g'"),
    "modes as a number": (_manifest(modes=3), "index.json"),
    "a negative count": (_manifest(rows=-1), "rows: got -1"),
    "a count as text": (_manifest(rows="63"), "rows: got '63'"),
    "a count as truth": (_manifest(rows=True), "rows: got True"),
    "more rows than there are": (_manifest(rows=64), "disc.vectors: has 6048 bytes, 6144 are needed"),
    "a huge count": (_manifest(rows=1 << 47), "are needed"),
    "an impossible count": (_manifest(rows=1 << 200), "rows: got"),
    "a huge dimension": (_manifest(dimension=1 << 40), "dimension: got"),
    "another dimension": (_manifest(dimension=48), "are needed"),
    "vectors cut short": (_file(f"{DATA}/gen.vectors", lambda b: b[:-1]), "gen.vectors: has 6047"),
    "vectors missing": (_file(f"{DATA}/gen.vectors", None), "gen.vectors: is missing"),
    "items cut short": (_file(f"{DATA}/items.jsonl", lambda b: b[:100]), "items.jsonl: has 100"),
    "ends missing": (_file(f"{DATA}/items.ends", None), "items.ends: is missing"),
    "deletions of strange rows": (
        _file(f"{DATA}/deleted", np.array([63], "<i8").tobytes()), "names rows that are not there"
    ),
    "deletions missing": (_file(f"{DATA}/deleted", None), "deleted: is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_opening_is_refused(index, case):
    index.delete(["p62"])
    change, message = REFUSED[case]
    change(index.directory)
    with pytest.raises(ValueError, match=message):
        VectorIndex.open(index.directory)


BAD_ITEMS = {
    "no JSON": (f"{DATA}/items.jsonl", lambda b: b"\x80" * len(b), "not an item"),
    "a list": (f"{DATA}/items.jsonl", lambda b: b"[" + b" " * (len(b) - 2) + b"]", "not an item"),
    "deep JSON": (f"{DATA}/items.jsonl", lambda b: b"[" * len(b), "not an item"),
    "ends that run back": (f"{DATA}/items.ends", lambda b: b"\xff" * len(b), "is not where"),
    "ends beyond the file": (f"{DATA}/items.ends", lambda b: b"\x7f" * len(b), "is not where"),
}


@pytest.mark.parametrize("case", BAD_ITEMS)
def test_items_that_are_none(index, unit, case):
    name, content, message = BAD_ITEMS[case]
    _file(name, content)(index.directory)
    opened = VectorIndex.open(index.directory)
    for read in (
        lambda: opened.search({"gen": unit(1, 1)}, 1),
        lambda: "p1" in opened,
        lambda: list(opened.items()),
        lambda: opened.item(5),
        lambda: opened.delete(["p1"]),
    ):
        with pytest.raises(ValueError, match=f"{message}.*the index is damaged"):
            read()


def test_a_directory_that_is_a_file(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(ValueError, match="no index here"):
        VectorIndex.open(tmp_path / "a")
