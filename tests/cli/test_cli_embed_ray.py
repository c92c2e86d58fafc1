"""umer1 embed --engine ray: what reaches the cluster, and what is refused before one is started."""

import json
from pathlib import Path

import pytest

from umer1.cli import embed_ray
from umer1.integrations import ray_embed

DONE = {"run": "0", "shards": 2, "items": 3, "bad": 1, "missed": 2, "tokens": 9}


@pytest.fixture
def asked(monkeypatch):
    """What embed_on_ray was called with; nothing runs."""
    calls = []

    def embed_on_ray(sources, output, **settings):
        print("a library prints to stdout")
        calls.append({"sources": sources, "output": output, **settings})
        return DONE

    monkeypatch.setattr(ray_embed, "embed_on_ray", embed_on_ray)
    return calls


def test_options_reach_the_run_and_the_workers(run, asked, embedder, tmp_path):
    out = run(
        "embed", "a.parquet", "b", "--engine", "ray", "-o", tmp_path / "v.1", "--mode", "gen", "--samples", 2,
        "--temperature", 1, "--seed", 5, "--instruction", "Find it.", "--shard-items", 64, "--bad-items", "record",
        "--workers", 7, "--worker-cpus", 2, "--worker-gpus", 0.5, "--ray-address", "auto", "--batch-size", 16, "-q", "--json",
    )  # fmt: skip
    assert out.status == 0, out.err
    [call] = asked
    assert call["sources"] == [Path("a.parquet"), Path("b")] and call["output"] == tmp_path / "v.1"
    assert call["cluster"] == ray_embed.Cluster("auto", 7, 2.0, 0.5)
    assert call["options"] == {
        "mode": "gen", "max_new_tokens": 512, "temperature": 1.0, "n": 2, "seed": 5, "readout": "at", "batch_size": 16,
    }  # fmt: skip
    assert (call["model"], call["instruction"], call["shard_items"]) == ("tiny@0", "Find it.", 64)
    assert (call["bad_items"], call["show"]) == ("record", False)
    assert call["load"](2.0, 0.5) is embedder
    found = json.loads(out.out)
    assert found == {"model": "tiny@0", "output": str(tmp_path / "v.1"), **DONE}
    for words in ("wrote 3 items", "1 items could not be used", "2 generations wrote no <gen_emb>"):
        assert words in out.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "a"], "--text, --image, --video and --device are not for --engine ray"),
        (["--device", "cpu"], "--device are not for --engine ray"),
        (["-o", "x.npz"], "--output: got x.npz, --engine ray wants the name of a directory"),
        (["--mode", "both?"], "--mode: got 'both?'"),
        (["--readout", "before"], "--readout: got 'before'"),
        (["--samples", "2"], "--samples: got 2 with --temperature 0.0"),
        (["--batch-size", "0"], "--batch-size: got 0"),
        (["--max-new-tokens", "0"], "max_new_tokens: got 0"),
    ],
)
def test_wrong_options_are_found_before_workers_start(run, asked, embedder, options, message):
    out = run("embed", "a.jsonl", "--engine", "ray", "-o", "out", *options)
    assert out.status == 1 and message in out.err and not asked


def test_an_engine_that_is_not_known_and_an_output_that_is_missing(run, asked, embedder):
    assert "--engine: got 'rya', wants" in run("embed", "a", "--engine", "rya").err
    assert "--output: got None" in run("embed", "a.jsonl", "--engine", "ray").err


def test_sources_are_checked_before_ray_is_started(run, embedder, tmp_path):
    out = run("embed", "seven", "--engine", "ray", "-o", tmp_path / "out")
    assert out.status == 1
    assert "seven: is nothing, wants a .jsonl or .parquet file or a directory" in out.err
    assert not (tmp_path / "out").exists()


def test_a_directory_of_something_else_is_left_as_it_is(run, embedder, tmp_path, photos):
    output = tmp_path / "out"
    output.mkdir()
    (output / "letter.txt").write_text("dear")
    out = run("embed", photos, "--engine", "ray", "-o", output)
    assert out.status == 1 and "out: holds letter.txt, and no run" in out.err
    assert [path.name for path in output.iterdir()] == ["letter.txt"]


def test_a_worker_with_other_weights_refuses(monkeypatch, embedder):
    load = embed_ray.load_in_worker
    assert load("tiny", "tiny@0", 1, 0) is embedder
    monkeypatch.setattr("umer1.cli.models.model_identity", lambda model: "tiny@1")
    with pytest.raises(ValueError, match="--model tiny: is tiny@1 on .*, and tiny@0 where the run"):
        load("tiny", "tiny@0", 1, 0)


def test_a_worker_takes_its_threads_and_its_device(monkeypatch, embedder):
    threads, devices = [], []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr(
        "umer1.cli.models.load_embedder", lambda model, device=None: devices.append(device)
    )
    for cpus, gpus in ((4.0, 0.0), (0.5, 0.25)):
        embed_ray.load_in_worker("tiny", "tiny@0", cpus, gpus)
    assert threads == [4, 1] and devices == ["cpu", "cuda"]
