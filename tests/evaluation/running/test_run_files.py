"""Arrays, indexes and texts beside upstream's files; devices and dtypes of a run."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from umer1.evaluation import evaluate, load_tasks
from umer1.evaluation.running.ranks import local_device


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_arrays_hold_what_the_pickles_hold(embedder, benchmark_dir, tmp_path):
    evaluate(embedder, benchmark_dir, output_dir=tmp_path, names=["pages"], progress=False)
    for mode in ("disc", "gen"):
        queries = np.load(tmp_path / f"pages_{mode}_qry.npy", allow_pickle=False)
        candidates = np.load(tmp_path / f"pages_{mode}_tgt.npy", allow_pickle=False)
        table = pickle.loads((tmp_path / f"pages_{mode}_tgt").read_bytes())
        assert queries.dtype == candidates.dtype == np.float32
        np.testing.assert_array_equal(
            queries, pickle.loads((tmp_path / f"pages_{mode}_qry").read_bytes())
        )
        np.testing.assert_array_equal(candidates, np.stack(list(table.values())))
    index = rows(tmp_path / "pages_tgt_index.jsonl")
    assert [row["name"] for row in index] == list(table)
    assert [row["row"] for row in index] == list(range(5))


def test_an_index_says_what_a_row_is(embedder, benchmark_dir, tmp_path):
    names = ["digit", "action"]
    evaluate(embedder, benchmark_dir, output_dir=tmp_path / "out", names=names, progress=False)
    digit, action = load_tasks(benchmark_dir, names=names)
    found = rows(tmp_path / "out" / "digit_qry_index.jsonl")
    assert found[2] == {
        "row": 2,
        "name": "2",
        "text": digit.queries[2].item["text"],
        "image": ["image-tasks/pics/p2.png"],
        "video": [],
    }
    frames = rows(tmp_path / "out" / "action_qry_index.jsonl")[0]["video"]
    assert len(frames) == 8 and frames[0] == "video-tasks/frames/v1/frame_1.jpg"
    # outside the data directory paths stay as they are
    tasks = [digit]
    elsewhere = {"output_dir": tmp_path / "b", "data_basedir": tmp_path / "b", "progress": False}
    evaluate(embedder, tasks, **elsewhere)
    picture = rows(tmp_path / "b" / "digit_qry_index.jsonl")[2]["image"]
    assert picture == [str(benchmark_dir / "image-tasks/pics/p2.png")]


def test_texts_are_kept_with_their_lengths(embedder, benchmark_dir, tmp_path):
    evaluate(
        embedder, benchmark_dir, output_dir=tmp_path, names=["digit"], samples=2, progress=False
    )
    one = {"finish": "gen_emb", "reasoning": "r é", "summary": "s", "tokens": 7}
    assert rows(tmp_path / "digit_gen_tgt_text.jsonl") == [one] * 4
    two = {name: [value] * 2 for name, value in one.items()}
    assert rows(tmp_path / "digit_gen_qry_samples_text.jsonl") == [two] * 4
    assert not (tmp_path / "digit_disc_tgt_text.jsonl").exists()


def test_files_of_an_older_run_are_completed(embedder, benchmark_dir, tmp_path):
    options = {"output_dir": tmp_path, "names": ["digit"], "progress": False}
    evaluate(embedder, benchmark_dir, **options)
    added = [tmp_path / f"digit_gen_{side}.npy" for side in ("qry", "tgt")]
    added += [tmp_path / f"digit_{side}_index.jsonl" for side in ("qry", "tgt")]
    before = [path.read_bytes() for path in added]
    for path in added:
        path.unlink()
    evaluate(lambda: pytest.fail("nothing is to be embedded"), benchmark_dir, **options)
    assert [path.read_bytes() for path in added] == before


def test_the_pairing_that_was_asked_for_is_the_score(embedder, benchmark_dir, tmp_path):
    entries = {}
    for pairing in ("correct", "upstream"):
        options = {"output_dir": tmp_path / pairing, "names": ["pages"], "progress": False}
        report = evaluate(embedder, benchmark_dir, pairing=pairing, **options)
        assert report.settings["pairing"] == pairing
        entries[pairing] = report.tasks["pages"]
    right, upstream = entries["correct"], entries["upstream"]
    assert right["scores_upstream_pairing"] == upstream["scores"]
    assert right["scores"] == upstream["scores_correct_pairing"]
    assert upstream["main"]["gen"] == upstream["scores"]["gen"]["ndcg_linear@5"]


def test_vectors_of_two_dtypes_are_not_mixed(fake_embedder_class, benchmark_dir, tmp_path):
    def make(dtype):
        made = fake_embedder_class()
        made.model = SimpleNamespace(dtype=dtype)
        return made

    options = {"output_dir": tmp_path, "progress": False}
    report = evaluate(make(torch.bfloat16), benchmark_dir, names=["digit"], **options)
    assert report.settings["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="computed in bfloat16, now float32"):
        evaluate(make(torch.float32), benchmark_dir, names=["sum"], **options)


def test_every_process_has_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device(None) is None and local_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert local_device(None) == local_device("cuda") == "cuda:2"
    assert local_device("cpu") == "cpu" and local_device("cuda:1") == "cuda:1"
