"""`umer1 embed -o`: results on disk as they finish; a killed run goes on, loses and doubles nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from umer1 import Embedder
from umer1 import parts as parts_on_disk
from umer1.cli import vectors
from umer1.cli.journal import Journal, describe_run

ROOT = Path(__file__).parents[2]
OUTPUTS = ["out.npz", "out.jsonl", "out"]
NAMES = [f"item {number}" for number in range(7)]


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def _row(identity, samples=1):
    number = NAMES.index(identity)
    gen = np.full((samples, 4) if samples > 1 else 4, number, np.float32)
    text = f"é {identity}"
    return {
        "id": identity,
        "summary": text if samples == 1 else [text] * samples,
        "tokens": number if samples == 1 else [number] * samples,
        "disc": np.full(4, -number, np.float32),
        "gen": gen,
    }


def _run(**changes):
    settings = {"model": "tiny@0", "readout": "at", "seed": 0} | changes
    return describe_run(NAMES, [{"text": name} for name in NAMES], **settings)


def _content(output):
    files = sorted(output.glob("[0-9]*.npz")) if output.is_dir() else [output]
    return [row for file in files for row in vectors.read(file, vectors=True)]


def _check(output, samples=1):
    rows = _content(output)
    if output.is_file():
        assert [row["id"] for row in rows] == NAMES
    assert sorted(row["id"] for row in rows) == sorted(NAMES)
    for row in rows:
        wanted = _row(row["id"], samples)
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(row[name], value)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("samples", [1, 3])
def test_a_run_in_several_parts_is_one_result(tmp_path, monkeypatch, name, samples):
    monkeypatch.setattr(parts_on_disk, "ROWS", 3)
    output = tmp_path / "new" / name
    with Journal(output, _run(), NAMES) as parts:
        for identity in reversed(NAMES):
            parts.add([_row(identity, samples)])
        assert len(parts.parts) == 2  # the last row waits
        texts = parts.finish()
    assert [row["id"] for row in texts] == NAMES and "gen" not in texts[0]
    _check(output, samples)
    left = {path.name for path in output.parent.iterdir()}
    assert left == {name}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_kill_at_any_moment_loses_and_doubles_nothing(tmp_path, monkeypatch, name):
    """Killed at every rename, sync and removal of the run in turn; then the run is made again."""
    monkeypatch.setattr(parts_on_disk, "ROWS", 2)
    names = ("replace", "fsync", "unlink", "rmdir")
    moments, real = 0, {name: getattr(os, name) for name in names}
    for moment in range(1000):
        output, left = tmp_path / str(moment) / name, [moment]

        def counted(name, real=real, left=left):
            def call(*arguments, **keywords):
                left[0] -= 1
                if left[0] < 0:  # and nothing works after it: a killed process tidies up nothing
                    raise Killed
                return real[name](*arguments, **keywords)

            return call

        with monkeypatch.context() as patched:
            for function in real:
                patched.setattr(os, function, counted(function))
            try:
                computed = _whole(output)
            except Killed:
                computed = None
        if computed is not None:
            break
        moments += 1
        again = _whole(output) if not _is_complete(output) else []
        assert len(again) <= len(NAMES)
        _check(output)
    assert moments > 8  # or nothing was interrupted


def _whole(output):
    """What was computed to finish the run."""
    parts = Journal(output, _run(), NAMES)
    computed = []
    try:
        for place in parts.missing:
            computed.append(NAMES[place])
            parts.add([_row(NAMES[place])])
        parts.finish()
    finally:
        parts._lock.close()  # a killed process lets go of it; it commits nothing more
    return computed


def _is_complete(output):
    return output.is_file() and not output.with_name(f"{output.name}.partial").exists()


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(parts_on_disk, "ROWS", 2)
    output = tmp_path / "out.npz"
    with pytest.raises(Killed), Journal(output, _run(), NAMES) as parts:
        for identity in NAMES[:3]:
            parts.add([_row(identity)])
        raise Killed
    # an interrupted run keeps what it has, the last rows too
    with Journal(output, _run(), NAMES) as parts:
        assert parts.done == set(NAMES[:3]) and parts.missing == [3, 4, 5, 6]


def test_a_half_written_part_is_no_part(tmp_path):
    output = tmp_path / "out.jsonl"
    with Journal(output, _run(), NAMES) as parts:
        parts.add([_row(NAMES[0])])
    folder = tmp_path / "out.jsonl.partial"
    (folder / ".000001.jsonl.99.tmp").write_text('{"id": "item 1", "summ')
    with Journal(output, _run(), NAMES) as parts:
        assert parts.done == {NAMES[0]}
        for identity in NAMES[1:]:
            parts.add([_row(identity)])
        parts.finish()
    _check(output)


def test_rows_wait_no_longer_than_a_few_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(parts_on_disk, "SECONDS", 0.0)
    with Journal(tmp_path / "out.npz", _run(), NAMES) as parts:
        parts.add([_row(NAMES[0])])
        assert len(parts.parts) == 1


def test_another_run_in_the_same_place_is_refused(tmp_path):
    output = tmp_path / "out.npz"
    with Journal(output, _run(), NAMES) as parts:
        with pytest.raises(ValueError, match="another process is writing it"):
            Journal(output, _run(), NAMES)
        parts.add([_row(NAMES[0])])
    with pytest.raises(ValueError, match="seed was 0, is 1.*delete it to start again"):
        Journal(output, _run(seed=1), NAMES)
    with pytest.raises(ValueError, match="content was"):
        Journal(output, {**_run(), "content": "other"}, NAMES)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="holds a.png, and no run"):
        Journal(folder, _run(), NAMES)
    assert [path.name for path in folder.glob("*.png")] == ["a.png"]


def test_the_command_goes_on_where_it_stopped(run, embedder, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    stream = embedder.stream

    def failing(items, **options):
        for number, found in enumerate(stream(items, **options)):
            if number == 2:
                raise OSError("the disk is gone")
            yield found

    monkeypatch.setattr(embedder, "stream", failing)
    command = ["embed", "a", "b", "c", "d", "-o", output]
    assert run(*command).status == 1
    monkeypatch.setattr(embedder, "stream", stream)
    embedder.calls.clear()
    other = run(*command, "--seed", 3)
    assert other.status == 1 and "seed was 0, is 3" in other.err and embedder.calls == []
    result = run(*command)
    assert f"{output}: 2 of 4 items are there, going on" in result.err
    assert embedder.calls[0]["items"] == [{"text": "a"}, {"text": "b"}]
    assert embedder.calls[0]["numbers"] == [0, 1]  # their places in the whole list
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == list("abcd")
    assert result.out.count("summary    thing") == 4


def test_a_directory_keeps_its_parts(run, embedder, tmp_path):
    output = tmp_path / "vectors"
    assert run("embed", "a", "b", "-o", output, "--mode", "disc").status == 0
    rows = _content(output)
    assert sorted(row["id"] for row in rows) == ["a", "b"] and rows[0]["disc"].shape == (16,)
    embedder.calls.clear()
    again = run("embed", "a", "b", "-o", output, "--mode", "disc")
    assert again.status == 0 and embedder.calls == []
    assert "2 of 2 items are there" in again.err
    taken = tmp_path / "file"
    taken.write_text("")
    assert "is there and is a file" in run("embed", "a", "-o", taken).err


SCRIPT = """
import sys
from umer1 import parts
from umer1.cli import main
parts.ROWS = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "name, times", [("out.npz", 1), pytest.param("out.jsonl", 3, marks=pytest.mark.slow)]
)
def test_a_killed_process_goes_on(tmp_path, name, times):
    """kill -9 in the middle of generation; the end is that of a run nobody disturbed."""
    lines = [json.dumps({"id": f"n{number}", "text": f"find {number}"}) for number in range(40)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    output = tmp_path / name
    options = ["--temperature", "1", "--seed", "7", "--batch-size", "4", "--max-new-tokens", "24"]

    def start(target):
        command = [sys.executable, "-c", SCRIPT, "embed", str(tmp_path / "items.jsonl")]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
        return subprocess.Popen(
            [*command, "-o", str(target), "--quiet", *options],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    folder = tmp_path / f"{name}.partial"
    kills, seen = 0, 0
    for _ in range(times):
        process = start(output)
        while process.poll() is None and len(list(folder.glob("[0-9]*"))) < seen + 2:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL and not output.exists()
        seen = len(list(folder.glob("[0-9]*")))
    assert kills, "the run ended before it could be killed"
    process = start(output)
    _, messages = process.communicate()
    assert process.returncode == 0 and " of 40 items are there, going on" in messages
    rows = list(vectors.read(output, vectors=True))
    assert [row["id"] for row in rows] == [f"n{number}" for number in range(40)]
    undisturbed = Embedder.load("tiny").encode(
        [json.loads(line)["text"] for line in lines], max_new_tokens=24, temperature=1.0,
        seed=7, progress=False,
    )  # fmt: skip
    assert [row["summary"] for row in rows] == undisturbed.summary
    assert [row["tokens"] for row in rows] == undisturbed.tokens
    np.testing.assert_allclose([row["gen"] for row in rows], undisturbed.gen, atol=1e-5)
    assert not folder.exists()
