"""umer1 eval check and prepare: status, table, JSON."""

import json

import pyarrow
import pyarrow.parquet
import pytest


@pytest.fixture
def pages(tmp_path):
    """Two pages, one of them on disk."""
    rows = {
        "queries": [{"query-id": 0, "query": "q"}],
        "qrels": [{"query-id": 0, "corpus-id": 1, "score": 1}],
        "corpus": [{"corpus-id": at, "image": {"bytes": PNG, "path": None}} for at in (1, 2)],
    }
    for name, table in rows.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / f"{name}.parquet")
    (tmp_path / "1.png").write_bytes(PNG)
    entry = {"dataset_parser": "vidore", "image_root": ".", "data_path": "."}
    (tmp_path / "visdoc.yaml").write_text(json.dumps({"pages": entry}))
    return tmp_path


# one white pixel
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c63f80f00010101001bb6ee560000000049454e44ae426082"
)


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_help_has_an_example(run, command):
    result = run("eval", command, "--help")
    assert result.status == 0
    assert "Examples:" in result.out
    assert f"umer1 eval {command}" in result.out


def test_check_prepare_check(run, pages):
    result = run("eval", "check", pages, "--quiet")
    assert result.status == 1
    assert f"pages: 1 of 2 media are missing, e.g. {pages}/2.png" in result.out
    assert result.out.splitlines()[-1] == "1 tasks, 1 with problems, 1 media missing"
    result = run("eval", "prepare", pages, "--quiet")
    assert result.status == 0
    assert result.out.splitlines()[0] == "pages: 1 pages, frames of 0 videos"
    result = run("eval", "check", pages, "--quiet")
    assert (result.status, result.out.splitlines()[-1]) == (0, "1 tasks, nothing is missing")


def test_json_is_one_document(run, pages):
    result = run("eval", "check", pages, "--json", "-q")
    document = json.loads(result.out)
    assert (document["ok"], document["missing"], result.status) == (False, 1, 1)
    assert document["tasks"][0]["queries"] == 1
    assert json.loads(run("eval", "prepare", pages, "--json", "-q").out) == {
        "pages": {"pages": 1, "videos": 0}
    }


def test_what_concerns_the_whole_benchmark_is_one_error(run, tmp_path):
    result = run("eval", "check", "mmeb-v2")
    assert result.status != 0
    assert "the bundled benchmark needs data_basedir" in result.err
    result = run("eval", "check", "mmeb-v2", "--data-basedir", tmp_path, "--page-data", "old")
    assert "page_data: got 'old', need one of fixed, original" in result.err
    assert "Traceback" not in result.err
