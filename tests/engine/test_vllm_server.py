"""The engine over a real `vllm serve` on the CPU, in an environment of its own.

UMER1_VLLM_PYTHON names its python: docs/clusters.md says how to make one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from umer1.embedder import BUNDLED, Embedder
from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens
from umer1.engine.remote.vllm import vllm_engine
from umer1.media import MediaLimits
from umer1.model.checkpoint import load_model
from umer1.processor import Processor

PYTHON = os.environ.get("UMER1_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="UMER1_VLLM_PYTHON names no python with vLLM"),
]
TINY = BUNDLED["tiny"]
PICTURE = Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3))
FRAMES = [PICTURE.rotate(angle).resize((112, 28)) for angle in range(0, 70, 10)]
START_SECONDS = 900


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server that runs until the tests are over."""
    directory = tmp_path_factory.mktemp("vllm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "PYTHONPATH": str(Path(__file__).parent / "vllm_environment"),
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--enable-scale-out"]
    command += ["--generation-config", "vllm"]
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env=os.environ | settings,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, server, log)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            try:
                os.killpg(server.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _wait_until_healthy(address, server, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(f"{address}/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def processor():
    processor = Processor.load(TINY)
    # a text gets its blank picture, as with the released models
    processor.limits = MediaLimits(784, 25088, 784, 3136, blank_image="evaluation")
    return processor


@pytest.fixture
def model():
    return load_model(TINY, dtype=torch.float32)


@pytest.fixture
def native(model, processor):
    return NativeEngine(model, SpecialTokens.of(processor), slots=8)


@pytest.fixture
def engine(url, model, processor, tmp_path):
    engine = vllm_engine([url], model, processor, weights_directory=tmp_path)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prompts(processor):
    items = [
        "seven",
        "What is the last digit of 7 + 5?",
        {"image": PICTURE, "text": "What is the last digit of the sum?"},
        {"images": [PICTURE.rotate(90, expand=True), PICTURE], "text": "which?"},
        {"video": FRAMES, "text": "what happens?"},
        [{"role": "user", "content": [
            {"type": "video", "video": FRAMES[:4]}, {"type": "image", "image": PICTURE},
            {"type": "text", "text": "both"},
        ]}],
        {"text": "x <gen_emb> y"},
    ]  # fmt: skip
    sequences = [processor.encode(item, mode="gen") for item in items]
    return [
        Prompt(sequence, number, processor.disc_position(sequence))
        for number, sequence in enumerate(sequences)
    ]


def same(ours, theirs):
    ours, theirs = ({(e.prompt, e.sample): e for e in each} for each in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        torch.testing.assert_close(one.disc, other.disc, atol=1e-4, rtol=0)
        for name in ("tokens", "hit", "finish", "version"):
            assert getattr(one.rollout, name) == getattr(other.rollout, name), (key, name)
        torch.testing.assert_close(one.rollout.vector, other.rollout.vector, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            torch.tensor(one.rollout.logprobs), torch.tensor(other.rollout.logprobs),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip
    return theirs


@pytest.mark.parametrize(
    "sampling",
    [Sampling(40), Sampling(40, stop="eos"), Sampling(3), Sampling(40, max_think_tokens=3)],
    ids=["greedy", "to the end", "cut", "short thinking"],
)
def test_rollouts_equal_the_native_ones(engine, native, prompts, sampling):
    same(native.submit(prompts, sampling), engine.submit(prompts, sampling))


def test_samples_repeat_by_their_seeds(engine, prompts):
    sampling = Sampling(30, temperature=1.5, seed=5, top_p=0.95, top_k=50)

    def run(sampling):
        return {
            (each.prompt, each.sample): each.rollout.tokens
            for each in engine.submit(prompts[:3], sampling, samples=3)
        }

    first = run(sampling)
    assert run(sampling) == first and len(set(map(tuple, first.values()))) > 3
    assert run(Sampling(30, temperature=1.5, seed=6, top_p=0.95, top_k=50)) != first


def test_new_weights_change_what_it_writes(engine, native, model, prompts, url):
    before = {each.prompt: each.rollout.tokens for each in engine.submit(prompts, Sampling(40))}
    original = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    engine.load([], version=7)
    native.load([], version=7)
    after = same(native.submit(prompts, Sampling(40)), engine.submit(prompts, Sampling(40)))
    assert any(each.rollout.tokens != before[place] for (place, _), each in after.items())
    assert httpx.get(f"{url}/weight_info").json() == {"weight_version": "7"}
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), original):
            parameter.copy_(value)
    engine.load([], version=8)
    assert before == {
        each.prompt: each.rollout.tokens for each in engine.submit(prompts, Sampling(40))
    }


def test_it_sleeps_and_wakes(engine, prompts):
    (before,) = engine.submit(prompts[:1], Sampling(10))
    engine.sleep()
    engine.wake()
    (after,) = engine.submit(prompts[:1], Sampling(10))
    assert after.rollout.tokens == before.rollout.tokens


def test_what_is_abandoned_stops_running(engine, processor, prompts, url):
    """Rows that would run for long: their end tokens are such as nobody writes."""
    engine.special = SpecialTokens(processor.image_pad_id, processor.video_pad_id)

    def source():
        yield from prompts[:2]
        _until(lambda: _running(url) == 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(engine.submit(source(), Sampling(900)))
    _until(lambda: _running(url) == 0)


def _running(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if "num_requests_running{" in line)


def _until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.05)


def test_an_embedder_runs_on_it(url):
    items = ["seven", {"image": PICTURE, "text": "what?"}]
    ours, theirs = (
        Embedder.load("tiny", device="cpu", engine=engine).encode(items, "both", progress=False)
        for engine in ("native", f"vllm:{url}")
    )
    assert ours.reasoning == theirs.reasoning and ours.finish == theirs.finish
    np.testing.assert_allclose(ours.disc, theirs.disc, atol=1e-4)
    np.testing.assert_allclose(ours.gen, theirs.gen, atol=1e-4)
