"""Engines over fake servers of both kinds, the prompts they get, and what they are compared with."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from umer1.embedder import BUNDLED
from umer1.engine import NativeEngine, Prompt, SpecialTokens
from umer1.engine.remote.sglang import sglang_engine
from umer1.engine.remote.vllm import vllm_engine
from umer1.media import MediaLimits
from umer1.model.checkpoint import load_model
from umer1.processor import Processor

sys.path.insert(0, str(Path(__file__).parent))  # what tests share is a plain module beside them
from fake_sglang import FakeSGLang  # noqa: E402
from fake_vllm import FakeVllm  # noqa: E402
from rollout_checks import by_place  # noqa: E402

TINY = BUNDLED["tiny"]
LIMITS = MediaLimits(784, 25088, 784, 3136, blank_image="evaluation")
PICTURE = Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3))
FRAMES = [PICTURE.rotate(angle).resize((112, 28)) for angle in range(0, 70, 10)]


@pytest.fixture(scope="session")
def processor():
    processor = Processor.load(TINY)
    processor.limits = LIMITS  # a text gets its blank picture, as with the released models
    return processor


@pytest.fixture(scope="session")
def picture():
    return PICTURE


@pytest.fixture(scope="session")
def model():
    return load_model(TINY, dtype=torch.float32)


@pytest.fixture(scope="session")
def native(model, processor):
    return NativeEngine(model, SpecialTokens.of(processor), slots=8)


@pytest.fixture(scope="session")
def expected(native):
    """What the native engine makes of prompts, computed once."""
    known = {}

    def run(prompts, sampling, samples=1):
        key = (len(prompts), sampling, samples)
        if key not in known:
            known[key] = by_place(native.submit(prompts, sampling, samples=samples))
        return known[key]

    return run


@pytest.fixture(scope="session")
def prompts(processor):
    items = [
        "seven",
        {"image": PICTURE, "text": "What is the last digit of the sum?"},
        {"images": [PICTURE.rotate(90, expand=True), PICTURE], "text": "which?"},
        {"text": "x <gen_emb> y"},
        {"video": FRAMES, "text": "what happens?"},
    ]
    sequences = [processor.encode(item, mode="gen") for item in items]
    return [
        Prompt(sequence, number, processor.disc_position(sequence))
        for number, sequence in enumerate(sequences)
    ]


@pytest.fixture(scope="session")
def _servers(model, processor):
    """Two of each kind: name -> [(server, address)]."""
    with ExitStack() as stack:
        running = {}
        for name, kind in (("vllm", FakeVllm), ("sglang", FakeSGLang)):
            servers = [kind(model, processor) for _ in range(2)]
            running[name] = [(each, stack.enter_context(each.running())) for each in servers]
        yield running


@pytest.fixture(params=["vllm", "sglang"])
def kind(request):
    return request.param


@pytest.fixture
def servers(_servers, kind, model):
    """[(server, address)] as if newly started."""
    for server, _ in _servers[kind]:
        server.model, server.weight_version = model, "default"
        server.calls.clear()
        server.failures.clear()
        server.hold.clear()
        server.gone, server.high, server.key, server.asleep = 0, 25088, None, False
    return _servers[kind]


@pytest.fixture
def make_engine(servers, kind, model, processor):
    opened = []

    def make(count=1, our_model=None, **settings):
        urls = [address for _, address in servers[:count]]
        if kind == "vllm":
            opened.append(vllm_engine(urls, our_model or model, processor, **settings))
        else:
            opened.append(sglang_engine(urls, model.config, processor, **settings))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def mine(prompts, kind):
    """The prompts that this kind of server takes."""
    return prompts if kind == "vllm" else prompts[:-1]
