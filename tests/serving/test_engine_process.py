"""The engine in a process of its own: what it computes, how prompts leave it, how either side ends."""

import asyncio
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from umer1 import Embedder
from umer1.serving.engine_process import EngineProcess
from umer1.serving.errors import ApiError
from umer1.serving.runner import Runner, Started, TokenPiece
from umer1.serving.settings import EmbedOptions, ServerSettings
from umer1.serving.wire import dumps, sendable

# noise ends a sample at any step: a request of sixteen waits for the longest of them
LONG = EmbedOptions(max_new_tokens=400, temperature=50.0, n=16)


@pytest.fixture(scope="module")
def front():
    return Embedder.without_weights("tiny")


@pytest.fixture(scope="module")
def with_process(front):
    """with_process(use, **settings): `await use(runner)`, the engine in a process of its own."""

    def run(use, **settings):
        process = EngineProcess("tiny", device="cpu", slots=4, kv_memory=1 << 26)

        async def main():
            runner = Runner(front, ServerSettings(**settings), process)
            runner.start()
            try:
                return await use(runner)
            finally:
                await runner.close()
                assert process._process.returncode is not None

        return asyncio.run(main())

    return run


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def same(got, wanted):
    for name in ("disc", "gen", "hit"):
        a, b = getattr(got, name), getattr(wanted, name)
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b), name
    for name in ("reasoning", "summary", "tokens", "finish"):
        assert getattr(got, name) == getattr(wanted, name)


def test_it_computes_what_the_embedder_does(with_process, offline, picture):
    items = ["seven", {"text": "which digit?", "image": picture(1)}, {"image": picture(2)}]
    cases = [EmbedOptions(mode="both"), EmbedOptions(mode="disc", readout="after"),
             EmbedOptions(mode="gen", n=3, temperature=0.8, seed=5, number=2, max_think_tokens=4)]  # fmt: skip
    pairs = [(item, options) for item in items for options in cases]

    async def use(runner):
        got = await asyncio.gather(*(runner.embed(*pair) for pair in pairs))
        return got, runner.describe()

    results, state = with_process(use)
    for (item, how), got in zip(pairs, results, strict=True):
        ((_, wanted),) = offline.stream(
            [item], how.mode, how.max_new_tokens, how.temperature, how.n, how.seed,
            numbers=[how.number], max_think_tokens=how.max_think_tokens, readout=how.readout,
        )  # fmt: skip
        same(got, wanted)
    # whoever has its answer finds the engine as it is after it
    assert (state["running"], state["pages_held"], state["rows"]) == (0, 0, 0)
    assert state["pages_kept"] > 0 and state["feature_bytes"] > 0 and state["slots"] == 4


def test_a_stream_tells_every_token(with_process, offline):
    async def use(runner):
        return [event async for event in runner.stream("3 + 4", EmbedOptions(mode="both"))]

    started, *pieces, last = with_process(use)
    wanted = offline.encode("3 + 4", "both", progress=False)
    assert started == Started(len(offline.processor.encode("3 + 4", mode="gen")))
    same(last, wanted)
    assert all(isinstance(piece, TokenPiece) for piece in pieces)
    assert wanted.summary[0] in offline.processor.decode([piece.token for piece in pieces])


def test_who_leaves_makes_room(with_process, offline):
    """More than there are slots, running and waiting, several times over; then signals that a
    terminal sends to both."""

    async def use(runner):
        for _ in range(3):
            tasks = [asyncio.create_task(runner.embed(f"{place}", LONG)) for place in range(9)]
            await until(lambda: runner.describe()["running"] == 4)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await until(lambda: not runner.describe()["pages_held"])
        assert not runner.host._tickets
        for each in (signal.SIGINT, signal.SIGTERM):
            runner.host._process.send_signal(each)
        return await runner.embed("seven", EmbedOptions()), runner.describe()["rows"]

    got, rows = with_process(use)
    same(got, offline.encode("seven", "gen", progress=False))
    assert rows == 0


def test_what_cannot_fit_is_refused_before_a_stream_begins(with_process):
    async def use(runner):
        events = []
        with pytest.raises(ApiError, match="key-value memory") as refused:
            async for event in runner.stream("word " * 40_000, EmbedOptions()):
                events.append(event)
        assert events == [] and refused.value.status == 400
        return runner.describe()["rows"]

    assert with_process(use, max_prompt_tokens=1 << 20) == 0


def test_a_killed_engine_is_503_for_all_and_no_one_waits(with_process, caplog):
    async def use(runner):
        tasks = [asyncio.create_task(runner.embed(f"{place}", LONG)) for place in range(9)]
        await until(lambda: runner.describe()["running"] == 4)
        assert runner.alive and runner.ready
        runner.host._process.kill()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(ApiError) as later:
            await runner.embed("seven", EmbedOptions())
        assert not runner.alive and not runner.ready
        state = runner.describe()
        return [*errors, later.value], (state["rows"], state["running"], state["pages_held"])

    errors, state = with_process(use)
    assert [(each.status, each.code) for each in errors] == [(503, "no_engine")] * 10
    assert state == (0, 0, 0)
    assert "ended with status -9: restart the server" in caplog.text


def test_a_killed_server_takes_its_engine_along():
    code = (
        "from umer1.serving.engine_process import EngineProcess; import time\n"
        "print(EngineProcess('tiny', device='cpu', slots=2, kv_memory=1 << 26)._process.pid, flush=True)\n"
        "time.sleep(600)"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    engine = int(server.stdout.readline())
    assert Path(f"/proc/{engine}").exists()
    server.kill()
    server.communicate()
    end = time.monotonic() + 60
    while _runs(engine):
        assert time.monotonic() < end, "the engine outlives its server"
        time.sleep(0.02)


def _runs(pid):
    """Not gone, and not merely waiting for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_loading_raises_reaches_the_server(tmp_path):
    with pytest.raises(ValueError, match="kv_memory"):
        EngineProcess("tiny", device="cpu", kv_memory=1)
    with pytest.raises((ValueError, OSError), match="nowhere"):
        EngineProcess(str(tmp_path / "nowhere"), device="cpu")


def test_an_engine_that_dies_at_its_start_is_one_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="ended with status 1 at its start"):
        EngineProcess("tiny")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.uint8])
def test_tensors_cross_as_they_are(dtype):
    whole = torch.arange(60).reshape(6, 10).to(dtype)
    for sent in (whole, whole[1:4, ::3], whole[:0], whole[0, 0]):
        got = pickle.loads(dumps({"x": [sent]}))["x"][0]
        assert got.dtype == dtype and got.shape == sent.shape and torch.equal(got, sent)
        got.zero_()  # it is the receiver's own
    assert whole.any()


class _OfTwo(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_an_error_crosses_or_its_words_do():
    assert type(sendable(ValueError("x"))) is ValueError
    for error in (_OfTwo("a", "b"), OSError(lambda: None)):
        got = pickle.loads(dumps(sendable(error)))
        assert type(got) is RuntimeError and str(got).startswith(type(error).__name__)
