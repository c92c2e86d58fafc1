"""One shard, one file: whoever writes it, however often, and whatever died before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from umer1.bulk import ShardWorker, shard_files, worker

ROOT = Path(__file__).parents[2]


def _content(run, shards):
    return {run.shard_path(shard).name: run.shard_path(shard).read_bytes() for shard in shards}


def test_rows_are_those_of_the_embedder_in_the_order_of_the_items(collection, planned, numbered):
    run, shards = planned(collection)
    receipts = [ShardWorker(run, lambda: numbered)(shard) for shard in shards]
    assert [(each.items, each.bad, each.missed, each.tokens) for each in receipts] == [
        (2, 0, 0, 6), (2, 0, 0, 6), (1, 0, 1, 3), (2, 0, 0, 6), (2, 0, 0, 6),
    ]  # fmt: skip
    rows = list(shard_files.read_shards(run.directory))
    assert [row["number"] for row in rows] == list(range(9))
    assert [row["id"] for row in rows] == ["a", "b", "c.png", "é", "e", "10", "11", "r", "13"]
    items = [{"text": "a"}, {"text": "bee"}, {"image": str(collection[0].parent / "c.png")}]
    for number, item in enumerate(items):
        wanted = numbered._result(item, number, "both", 1)
        np.testing.assert_array_equal(rows[number]["disc"], wanted.disc[0])
        np.testing.assert_array_equal(rows[number]["gen"], wanted.gen[0])
    assert rows[4]["finish"] == "length" and rows[3]["summary"] == "é 3" and rows[3]["tokens"] == 3
    assert {row["error"] for row in rows} == {None}
    assert not list((run.directory / "attempts").iterdir())


@pytest.mark.parametrize("mode", ["disc", "gen", "both"])
@pytest.mark.parametrize("n", [1, 3])
def test_the_file_says_what_it_holds(collection, planned, numbered, mode, n):
    run, shards = planned(collection, mode=mode, n=n)
    for shard in shards:
        ShardWorker(run, lambda: numbered)(shard)
    rows = list(shard_files.read_shards(run.directory))
    vectors = [name for name in ("disc", "gen") if mode in (name, "both")]
    assert [name for name in rows[0] if name in ("disc", "gen")] == vectors
    if "gen" in vectors:
        assert rows[0]["gen"].shape == ((6,) if n == 1 else (3, 6))
        assert rows[0]["tokens"] == (3 if n == 1 else [3] * 3)
        np.testing.assert_array_equal(
            rows[0]["gen"], np.squeeze(numbered._result({"text": "a"}, 0, mode, n).gen[0])
        )
    about = shard_files.read_about(run.shard_path(shards[0]))
    assert about["model"] == "m@0" and about["run"] == run.digest and about["items"] == "2"


def test_done_twice_is_done_once(collection, planned, numbered, whole):
    wanted = whole(collection)
    run, shards = planned(collection)
    for _ in range(2):
        receipts = [ShardWorker(run, lambda: numbered)(shard) for shard in shards]
    assert all(receipt.found for receipt in receipts)
    assert sum(receipt.tokens for receipt in receipts) == 27
    assert _content(run, shards) == wanted
    # two at once: both have seen that the file is missing
    for shard in shards:
        run.shard_path(shard).unlink()
        late, early = ShardWorker(run, lambda: numbered), ShardWorker(run, lambda: numbered)
        embed = late._embed
        late._embed = lambda shard, embed=embed, early=early: (early(shard), embed(shard))[1]
        assert not late(shard).found
    assert _content(run, shards) == wanted


def test_a_file_of_another_run_or_a_torn_one_is_written_again(collection, planned, numbered, whole):
    wanted = whole(collection)
    run, shards = planned(collection)
    other, _ = planned(collection, directory=run.directory.with_name("other"), seed=1)
    ShardWorker(other, lambda: numbered)(shards[0])
    first, second = run.shard_path(shards[0]), run.shard_path(shards[1])
    first.parent.mkdir(parents=True)
    first.write_bytes(other.shard_path(shards[0]).read_bytes())
    second.write_bytes(wanted[second.name][:-9])
    receipts = [ShardWorker(run, lambda: numbered)(shard) for shard in shards]
    assert not receipts[0].found and not receipts[1].found
    assert _content(run, shards) == wanted


def test_a_shard_that_ends_its_workers_ends_the_run(collection, planned, numbered):
    run, shards = planned(collection)

    class Dies(BaseException):
        pass

    def die():
        raise Dies

    for _ in range(worker.ATTEMPTS):
        with pytest.raises(Dies):
            ShardWorker(run, die)(shards[1])
    with pytest.raises(
        ValueError, match=r"shard 1 \(.*one.jsonl, items 2 to 3 of the run\) ended 5"
    ):
        ShardWorker(run, lambda: numbered)(shards[1])
    # the next start gives it another chance
    run.take_over()
    assert not ShardWorker(run, lambda: numbered)(shards[1]).found


def test_unusable_items_stop_the_run_or_are_recorded(tmp_path, planned, numbered):
    path = tmp_path / "bad.jsonl"
    lines = ['"a"', '"bad"', "{", '"b"', '"long"', '{"txt": 1}', '"c"', '"bad"']
    path.write_text("\n".join(lines))
    run, [shard] = planned([path], shard_items=8)
    with pytest.raises(ValueError, match="bad.jsonl:3: not JSON"):
        ShardWorker(run, lambda: numbered)(shard)
    assert not run.shard_path(shard).exists()
    receipt = ShardWorker(run, lambda: numbered, "record")(shard)
    assert (receipt.items, receipt.bad, receipt.tokens) == (8, 5, 9)
    rows = list(shard_files.read_shards(run.directory))
    assert [row["id"] for row in rows][2:6] == [f"{path}:3", "b", "long", f"{path}:6"]
    for number, row in enumerate(rows):
        good = number in (0, 3, 6)
        assert (
            (row["disc"] is not None) == (row["gen"] is not None) == (row["error"] is None) == good
        )
    wanted = numbered._result({"text": "c"}, 6, "both", 1)
    np.testing.assert_array_equal(rows[6]["gen"], wanted.gen[0])
    assert rows[1]["error"] == "is bad" and rows[4]["error"] == f"{path}:5: item 0: is long"
    assert "unknown key 'txt'" in rows[5]["error"]
    # what was done before the bad item is not done again
    assert sorted(numbered.computed) == [0, 3, 6]


def test_a_shard_of_nothing_but_bad_items_has_the_same_columns(tmp_path, planned, numbered):
    path = tmp_path / "bad.jsonl"
    path.write_text('"a"\n"bad"\n')
    run, shards = planned([path], shard_items=1)
    for shard in shards:
        ShardWorker(run, lambda: numbered, "record")(shard)
    schemas = [pyarrow.parquet.read_schema(run.shard_path(shard)) for shard in shards]
    assert schemas[0].remove_metadata() == schemas[1].remove_metadata()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import NumberedEmbedder, OPTIONS
from umer1.bulk import ShardWorker, inputs
from umer1.bulk.run import plan

files, directory, moment = [Path(each) for each in {files!r}], Path({directory!r}), {moment}
calls = 0
def count(event, arguments):
    global calls
    # what reaches the disk: any of these may be the last
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(directory) in str(arguments[0]):
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
run, shards = plan(directory, [inputs.scan(path, 2) for path in files], model="m@0",
                   options=OPTIONS, shard_items=2)
sys.addaudithook(count)
run.take_over()
for shard in shards:
    ShardWorker(run, NumberedEmbedder)(shard)
"""


@pytest.mark.slow  # a process per moment
def test_kill_9_at_every_moment_at_which_the_disk_changes(
    collection, planned, whole, numbered, tmp_path
):
    wanted, killed = whole(collection), 0
    for moment in range(1, 200):
        directory = tmp_path / f"killed{moment}"
        directory.mkdir()
        code = KILLED.format(
            tests=str(Path(__file__).parent),
            files=[str(path) for path in collection],
            directory=str(directory),
            moment=moment,
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        run, shards = planned(collection, directory=directory)
        for shard in shards:
            ShardWorker(run, lambda: numbered)(shard)
        assert _content(run, shards) == wanted
        assert {path.name for path in directory.rglob("*.parquet")} == set(wanted)
        assert not list(directory.rglob(".*"))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 15
