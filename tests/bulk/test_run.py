"""The directory of a run: taken over by the same one, refused to another."""

import json

import pytest

from umer1.bulk import ShardWorker


def test_the_same_run_goes_on_and_another_is_refused(collection, planned, numbered):
    run, shards = planned(collection)
    ShardWorker(run, lambda: numbered)(shards[0])
    again, _ = planned(collection)
    assert again.digest == run.digest and again.shard_path(shards[0]).exists()
    with pytest.raises(ValueError, match="other settings .mode was 'both', is 'gen'.; delete it"):
        planned(collection, mode="gen")
    with pytest.raises(ValueError, match="other settings .items was 9, is 5"):
        planned(collection[:1])
    collection[0].write_text(collection[0].read_text().replace("bee", "bea"))
    with pytest.raises(ValueError, match="other settings .content was"):
        planned(collection)


def test_how_many_rows_are_computed_together_is_no_setting(collection, planned):
    assert (
        planned(collection, batch_size=4)[0].digest == planned(collection, batch_size=8)[0].digest
    )


def test_a_directory_of_something_else_is_left_alone(collection, planned, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="out: holds letter.txt, and no run"):
        planned(collection)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["letter.txt"]


def test_starting_clears_what_dead_workers_left(collection, planned, numbered):
    run, shards = planned(collection)
    ShardWorker(run, lambda: numbered)(shards[0])
    stray = run.shard_path(shards[0]).with_name(".000000000.parquet.host.99.tmp")
    stray.write_bytes(b"half")
    run.attempts_path(shards[1]).write_text("process 99 on host\n")
    planned(collection)
    assert not stray.exists() and not run.attempts_path(shards[1]).exists()
    assert run.shard_path(shards[0]).exists()


def test_a_finished_run_says_so(collection, planned):
    run, _ = planned(collection)
    assert run.done() is None
    run.finish({"items": 9})
    assert run.done() == {"run": run.digest, "items": 9}
    assert json.loads((run.directory / "run.json").read_text())["items"] == 9
    assert not (run.directory / "attempts").exists()
