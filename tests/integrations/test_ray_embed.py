"""Bulk embedding on a local Ray: killed workers and drivers leave the files of a run without."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from umer1 import Embedder
from umer1.bulk import ShardWorker, inputs, shard_files
from umer1.bulk.run import plan
from umer1.integrations.ray_embed import Cluster, connected, embed_on_ray, size_workers

ROOT = Path(__file__).parents[2]
PATIENCE = 900
OPTIONS = {"mode": "both", "n": 1, "readout": "at"}
CLUSTER = Cluster(workers=2, cpus=1, local_cpus=2)


@pytest.mark.parametrize(
    ("machines", "asked", "wanted"),
    [
        ([(16, 0)], {}, (1, 16, 0)),
        ([(16, 0), (8, 0)], {}, (3, 8, 0)),
        ([(16, 0)], {"cpus": 3}, (5, 3, 0)),
        ([(4, 0), (64, 8), (32, 4)], {}, (12, 8, 1)),
        ([(64, 8)], {"gpus": 0.5}, (16, 4, 0.5)),
        ([(64, 8)], {"gpus": 0, "cpus": 4}, (16, 4, 0)),
        ([(3, 8)], {}, (3, 1, 1)),
        ([(16, 0)], {"workers": 40, "cpus": 1}, (40, 1, 0)),
    ],
)
def test_workers_take_their_share_of_the_machines(machines, asked, wanted):
    assert size_workers(machines, Cluster(**asked)) == wanted


def test_a_worker_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="wants 4 CPUs and 1 GPUs, no machine has them .16 CPUs"):
        size_workers([(16, 0)], Cluster(cpus=4, gpus=1))


def loader(folder: Path):
    """Of embedders that wait in item 9 until `folder`/go is there, and in a text "bad" find fault."""

    class Waiting:
        dimension = 4

        def __init__(self):
            self.processor = SimpleNamespace(encode=self._open)

        def stream(self, items, numbers, mode, n, readout):
            for place, number in enumerate(numbers):
                self._open(SimpleNamespace(text=items[place]["text"]), mode)
                while number == 9 and not (folder / "go").exists():
                    time.sleep(0.02)
                with open(folder / f"computed-{number}", "a") as file:
                    file.write(f"{os.getpid()}\n")
                vector = np.random.default_rng(number).standard_normal((1, 4)).astype(np.float32)
                texts = {"reasoning": ["r"], "summary": ["s"], "finish": ["gen_emb"], "tokens": [3]}
                yield place, SimpleNamespace(disc=vector, gen=-vector, **texts)

        def _open(self, item, mode):
            if item.text == "bad":
                raise ValueError("is bad")

    return lambda cpus=1, gpus=0: Waiting()


@pytest.fixture(scope="module")
def local_ray():
    """A Ray of this process, as the command starts it; afterwards nothing of it is left."""
    before = os.environ.get("RAY_memory_monitor_refresh_ms")
    # others use this machine's memory
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"
    with connected(CLUSTER):
        import ray

        session = Path(ray._private.worker._global_node.get_session_dir_path()).name
        yield ray
    wait(lambda: not processes_of(session))
    if before is None:
        del os.environ["RAY_memory_monitor_refresh_ms"]


@pytest.fixture
def texts(tmp_path):
    """40 texts; in shards of 4 the waiting item is in the third."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(f"text {number}") + "\n" for number in range(40)))
    return path


def wait(condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return found


def processes_of(session: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                session.encode()
                in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            ):
                found.append(entry.name)
        except OSError:
            continue
    return [name for name in found if name != str(os.getpid())]


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("shards/*/*.parquet")}


def undisturbed(source: Path, directory: Path, load, shard_items=4, model="m@0", **options):
    """Name -> bytes, without Ray."""
    directory.mkdir()
    run, shards = plan(
        directory,
        [inputs.scan(source, shard_items)],
        model=model,
        options=options or OPTIONS,
        shard_items=shard_items,
    )
    run.take_over()
    worker = ShardWorker(run, load)
    for shard in shards:
        worker(shard)
    return content(directory)


@pytest.mark.slow  # a Ray starts
def test_our_own_ray_listens_to_this_machine_alone(local_ray):
    [node] = local_ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert local_ray.cluster_resources()["CPU"] == 2
    outside = socket.gethostbyname(socket.gethostname())
    if not outside.startswith("127."):
        with pytest.raises(OSError):
            socket.create_connection((outside, node["NodeManagerPort"]), timeout=5).close()


@pytest.mark.slow
def test_a_worker_killed_in_a_shard_changes_no_byte(local_ray, texts, tmp_path):
    folder, output, done = tmp_path / "folder", tmp_path / "out", []
    folder.mkdir()
    embed = partial(
        embed_on_ray, [texts], output, model="m@0", load=loader(folder), options=OPTIONS
    )
    thread = threading.Thread(
        target=lambda: done.append(embed(shard_items=4, cluster=CLUSTER, show=False))
    )
    thread.start()
    attempt = output / "attempts" / "000000002"
    first = wait(lambda: attempt.exists() and attempt.read_text())
    wait(lambda: (folder / "computed-8").exists())
    os.kill(int(first.split()[1]), signal.SIGKILL)
    # the shard comes to another process, which finds the line of the dead one
    second = wait(lambda: len(attempt.read_text().splitlines()) == 2 and attempt.read_text())
    assert not list(output.glob("shards/*/000000002.parquet"))
    (folder / "go").touch()
    thread.join(PATIENCE)
    assert done == [
        {"run": done[0]["run"], "shards": 10, "items": 40, "bad": 0, "missed": 0, "tokens": 120}
    ]
    dead, alive = (line.split()[1] for line in second.splitlines())
    assert dead != alive
    # item 8 twice, of which one died; everything else once
    computed = {number: (folder / f"computed-{number}").read_text().split() for number in range(40)}
    assert computed[8] == [dead, alive] and computed[9] == [alive]
    assert content(output) == undisturbed(texts, tmp_path / "whole", loader(folder))
    assert not list(output.rglob(".*")) and not (output / "attempts").exists()


@pytest.mark.slow
def test_the_same_call_again_computes_nothing_or_what_is_missing(local_ray, texts, tmp_path):
    folder, output = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    (folder / "go").touch()

    def embed():
        return embed_on_ray(
            [texts], output, model="m@0", load=loader(folder), options=OPTIONS, shard_items=4,
            cluster=CLUSTER, show=False,
        )  # fmt: skip

    first, wanted = embed(), content(output)
    assert embed() == first
    # as after a killed driver: a shard is missing, and what says that all are there
    (output / "done.json").unlink()
    (output / "shards" / "000000" / "000000003.parquet").unlink()
    assert embed() == first and content(output) == wanted
    twice = [n for n in range(40) if len((folder / f"computed-{n}").read_text().split()) == 2]
    assert twice == [12, 13, 14, 15]


@pytest.mark.slow
def test_a_bad_item_stops_the_run_with_one_line_or_is_recorded(local_ray, tmp_path):
    source, output, folder = tmp_path / "x.jsonl", tmp_path / "out", tmp_path / "folder"
    folder.mkdir()
    source.write_text('"a"\n"bad"\n"b"\n')
    embed = partial(
        embed_on_ray, [source], output, model="m@0", load=loader(folder), options=OPTIONS,
        shard_items=2, cluster=CLUSTER, show=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="^is bad$"):
        embed()
    assert not (output / "done.json").exists()
    assert embed(bad_items="record")["bad"] == 1
    rows = list(shard_files.read_shards(output))
    assert [row["error"] for row in rows] == [None, "is bad", None]
    with pytest.raises(ValueError, match="holds a run with other settings .n was 1, is 2"):
        embed(options=OPTIONS | {"n": 2})


@pytest.mark.slow  # the real model, in processes of its own
def test_killing_the_command_and_starting_it_again_gives_the_bits_of_the_offline_engine(tmp_path):
    source, output = tmp_path / "x.jsonl", tmp_path / "out"
    items = [f"{number} red bicycles" for number in range(24)]
    source.write_text("".join(json.dumps(item) + "\n" for item in items))
    command = [
        sys.executable, "-m", "umer1.cli", "embed", str(source), "--engine", "ray", "-o", str(output),
        "--max-new-tokens", "16", "--temperature", "1", "--seed", "3", "--shard-items", "2",
        "--workers", "2", "--worker-cpus", "1", "--quiet", "--json",
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "kernels"), str(ROOT)]),
        "RAY_memory_monitor_refresh_ms": "0",
        "OMP_NUM_THREADS": "1",
    }
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    wait(lambda: len(content(output)) >= 2 or driver.poll() is not None)
    workers = {
        line.split()[1]
        for path in output.glob("attempts/*")
        for line in path.read_text().splitlines()
    }
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # Ray ends its workers when their driver is gone
    wait(lambda: not any(alive(process) for process in workers))
    before = content(output)
    assert 2 <= len(before) < 12 and not (output / "done.json").exists()

    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=PATIENCE, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] == 24
    after = content(output)
    assert len(after) == 12 and before.items() <= after.items()

    out = Embedder.load("tiny").encode(
        items, mode="both", max_new_tokens=16, temperature=1.0, seed=3, progress=False
    )
    rows = list(shard_files.read_shards(output))
    assert [row["id"] for row in rows] == items
    np.testing.assert_array_equal(np.stack([row["disc"] for row in rows]), out.disc)
    np.testing.assert_array_equal(np.stack([row["gen"] for row in rows]), out.gen)
    assert [row["summary"] for row in rows] == out.summary
    assert [row["finish"] for row in rows] == out.finish


def alive(process: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
