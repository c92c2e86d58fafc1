"""Engines over vLLM's and SGLang's protocols against the native one: the same rollouts."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from fake_servers import FakeSGLang, FakeVllm
from PIL import Image

from umer1.embedder import BUNDLED, Embedder
from umer1.engine import NativeEngine, Prompt, Sampling, SpecialTokens, remote_http
from umer1.engine.sglang import sglang_engine
from umer1.engine.vllm import vllm_engine
from umer1.media import MediaLimits
from umer1.model.checkpoint import load_model
from umer1.model.key_names import checkpoint_tensors
from umer1.processor import Processor

TINY = BUNDLED["tiny"]
LIMITS = MediaLimits(784, 25088, 784, 3136, blank_image="evaluation")
PICTURE = Image.fromarray(np.arange(56 * 84 * 3, dtype=np.uint8).reshape(56, 84, 3))
FRAMES = [PICTURE.rotate(angle).resize((112, 28)) for angle in range(0, 70, 10)]


@pytest.fixture(scope="module")
def processor():
    processor = Processor.load(TINY)
    processor.limits = LIMITS  # a text gets its blank picture, as with the released models
    return processor


@pytest.fixture(scope="module")
def model():
    return load_model(TINY, dtype=torch.float32)


@pytest.fixture(scope="module")
def native(model, processor):
    return NativeEngine(model, SpecialTokens.of(processor), slots=8)


@pytest.fixture(scope="module")
def expected(native):
    """What the native engine makes of prompts, computed once."""
    known = {}

    def run(prompts, sampling, samples=1):
        key = (len(prompts), sampling, samples)
        if key not in known:
            known[key] = by_place(native.submit(prompts, sampling, samples=samples))
        return known[key]

    return run


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def _servers(model, processor):
    """Two of each kind: name -> [(server, address)]."""
    from contextlib import ExitStack

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


def by_place(finished):
    return {(each.prompt, each.sample): each for each in finished}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, one in ours.items():
        other = theirs[key]
        torch.testing.assert_close(one.disc, other.disc, atol=1e-4, rtol=0)
        if one.rollout is None:
            assert other.rollout is None
            continue
        for name in ("tokens", "hit", "finish"):
            assert getattr(one.rollout, name) == getattr(other.rollout, name), (key, name)
        torch.testing.assert_close(one.rollout.vector, other.rollout.vector, atol=1e-4, rtol=0)
        known = [
            pair
            for pair in zip(one.rollout.logprobs, other.rollout.logprobs, strict=True)
            if not math.isnan(pair[1])
        ]
        assert all(abs(ours - theirs) < 1e-4 for ours, theirs in known), key


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(25),
        Sampling(25, stop="eos"),
        Sampling(2),
        Sampling(16, max_think_tokens=3),
        pytest.param(Sampling(40, max_think_tokens=0), marks=pytest.mark.slow),
        Sampling(5, max_think_tokens=4),
    ],
    ids=["greedy", "to the end", "cut", "short thinking", "no thinking", "cut in the tag"],
)
def test_rollouts_equal_the_native_ones(make_engine, expected, mine, sampling):
    """A text with its blank picture, an image, images, a video, a prompt with the token."""
    theirs = by_place(make_engine().submit(mine, sampling))
    same(expected(mine, sampling), theirs)


def test_without_samples_only_the_disc_vectors_come(make_engine, expected, mine, servers, kind):
    theirs = by_place(make_engine().submit(iter(mine), Sampling(8), samples=0))
    assert {key[1] for key in theirs} == {-1}
    same(expected(mine, Sampling(8), samples=0), theirs)
    assert len(_prompts(servers[0][0])) == (0 if kind == "vllm" else len(mine))


def test_a_text_that_goes_on_after_the_token_is_read_where_it_stands(
    servers, make_engine, model, native, mine
):
    """The first token that some text writes plays `<gen_emb>`; "eos" takes the last one."""
    (seen,) = native.submit(mine[1:2], Sampling(12))
    special = SpecialTokens(seen.rollout.tokens[2], native.special.eos_id)
    engine = make_engine()
    engine.special = special
    ours = NativeEngine(model, special)
    for sampling in (Sampling(12), Sampling(12, stop="eos"), Sampling(3)):
        theirs = by_place(engine.submit(mine, sampling))
        assert any(each.rollout.hit for each in theirs.values())
        same(by_place(ours.submit(mine, sampling)), theirs)


def test_samples_of_a_prompt_go_to_one_server_and_repeat(make_engine, servers, mine):
    sampling = Sampling(6, temperature=3.0, seed=3)
    engine = make_engine(2)
    first = by_place(engine.submit(mine[:3], sampling, samples=3))
    one, two = ({str(ids) for ids in _prompts(server)} for server, _ in servers)
    assert one and two and not one & two
    assert len(first) == 9
    assert len({tuple(first[0, sample].rollout.tokens) for sample in range(3)}) > 1
    again = by_place(engine.submit(mine[:3], sampling, samples=3))
    assert {k: v.rollout.tokens for k, v in first.items()} == {
        k: v.rollout.tokens for k, v in again.items()
    }


def test_new_weights_go_to_every_server(
    make_engine, servers, kind, mine, tmp_path, native, expected
):
    changed = load_model(TINY, dtype=torch.float32)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.05)
    named = [(entry.key, entry.read()) for entry in checkpoint_tensors(changed)]
    own = load_model(TINY, dtype=torch.float32)
    engine = make_engine(2, our_model=own, weights_directory=tmp_path / "weights")
    engine.load(iter(named), version=4)
    assert not list((tmp_path / "weights").iterdir()), "a checkpoint was left behind"
    assert [server.weight_version for server, _ in servers] == ["4", "4"]
    ours = NativeEngine(changed, native.special)
    theirs = by_place(engine.submit(mine, Sampling(10)))
    same(by_place(ours.submit(mine, Sampling(10))), theirs)
    assert {each.rollout.version for each in theirs.values()} == {4}
    before = expected(mine, Sampling(10))
    assert any(before[key].rollout.tokens != theirs[key].rollout.tokens for key in before)
    for bad, message in (
        ([("no.weight", torch.zeros(2))], "no.weight: got shape .2,., the model has no such"),
        ([("model.norm.weight", torch.zeros(2))], "model.norm.weight: got shape .2,., wants"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.load(bad, version=5)
    assert engine.version == 4 and not list((tmp_path / "weights").iterdir())
    if kind == "sglang":
        with pytest.raises(ValueError, match="named: is empty"):
            engine.load([], version=5)
    else:
        with torch.no_grad():
            own.decoder.norm.weight.mul_(0.5)  # a trainer writes in place
        engine.load([], version=5)
        torch.testing.assert_close(servers[1][0].model.decoder.norm.weight, own.decoder.norm.weight)


def test_without_a_directory_weights_are_refused(make_engine):
    with pytest.raises(ValueError, match="weights_directory: wants a directory"):
        make_engine().load([("model.norm.weight", torch.zeros(128))], version=1)


def test_it_sleeps_and_wakes_between_submissions(make_engine, servers, mine):
    engine = make_engine(rows=1)
    running = engine.submit(mine, Sampling(2))
    next(running)
    for call in (engine.sleep, lambda: engine.load([], version=1)):
        with pytest.raises(RuntimeError, match="1 submissions have not finished"):
            call()
    running.close()
    engine.sleep()
    assert servers[0][0].asleep
    with pytest.raises(RuntimeError, match="wake\\(\\) it first"):
        engine.submit(mine, Sampling(2))
    engine.wake()
    assert not servers[0][0].asleep
    assert len(list(engine.submit(mine[:1], Sampling(2)))) == 1


def test_what_is_abandoned_is_cancelled_on_the_server(make_engine, servers, mine):
    server, engine = servers[0][0], make_engine()
    list(engine.submit(mine[:1], Sampling(2)))
    server.calls.clear()
    server.hold.set()

    def source():
        yield from mine[:2]
        _until(lambda: len(_prompts(server)) == 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(engine.submit(source(), Sampling(2)))
    _until(lambda: server.gone == 2)
    server.hold.clear()
    assert len(list(engine.submit(mine[:1], Sampling(2)))) == 1


def _prompts(server):
    """Token ids that the server was asked to go on after."""
    bodies = [body for path, body in server.calls if "generate" in path]
    return [
        body["token_ids"] if "token_ids" in body else body["instances"][0]["input_ids"]
        for body in bodies
    ]


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)


def test_a_passing_failure_is_tried_again_and_another_is_told(
    make_engine, servers, mine, monkeypatch
):
    monkeypatch.setattr(remote_http, "_WAITS", (0.0, 0.0))
    server, url = servers[0]
    engine = make_engine()
    assert list(engine.submit(mine[:1], Sampling(2)))
    server.failures += [503, 429]
    assert len(list(engine.submit(mine[:1], Sampling(2)))) == 1
    for failures in ([503] * 3, [400]):
        server.failures += failures
        with pytest.raises(RuntimeError, match=f"{url}: answered {failures[0]} to POST /.*not now"):
            list(engine.submit(mine[:1], Sampling(2)))
    assert not server.failures
    server.key = "secret"
    with pytest.raises(RuntimeError, match="answered 401 to POST /.*Unauthorized"):
        list(engine.submit(mine[:1], Sampling(2)))
    assert list(make_engine(key="secret").submit(mine[:1], Sampling(2)))


def test_a_server_that_is_not_there_is_named(kind, model, processor, monkeypatch, prompts):
    monkeypatch.setattr(remote_http, "_WAITS", (0.0,))
    make = vllm_engine if kind == "vllm" else sglang_engine
    engine = make(["http://127.0.0.1:9"], model if kind == "vllm" else model.config, processor)
    with pytest.raises(RuntimeError, match="http://127.0.0.1:9: no answer to GET /"):
        engine.submit(prompts, Sampling(2))
    engine.close()


def test_media_that_the_server_resizes_are_an_error(make_engine, servers, mine):
    server, _ = servers[0]
    server.high = 784 * 2
    with pytest.raises(RuntimeError, match="read .* prompt tokens, .* were sent: it has resized"):
        list(make_engine().submit(mine[1:2], Sampling(2)))


def test_what_cannot_be_sent_is_named_before_anything_runs(
    make_engine, servers, kind, mine, prompts, processor
):
    engine = make_engine()
    few = PICTURE.resize((56, 28))
    flat = processor.encode({"video": [few] * 6, "text": "what?"}, mode="gen")
    with pytest.raises(ValueError, match="prompt 1: .* prompt tokens and 991 new ones, the serve"):
        engine.submit([mine[0], mine[1]], Sampling(990))
    with pytest.raises(ValueError, match="prompt 0, medium 0: a video of 3 time steps and 2 visua"):
        list(engine.submit([Prompt(flat, 0)], Sampling(2)))
    with pytest.raises(ValueError, match="samples is 0 and disc_position None"):
        engine.submit([Prompt(flat, 0)], Sampling(2), samples=0)
    with pytest.raises(ValueError, match="samples: got -1"):
        engine.submit(mine, Sampling(2), samples=-1)
    if kind == "sglang":
        with pytest.raises(ValueError, match="prompt 0: has a video, and http://.* images alone"):
            list(engine.submit(prompts[-1:], Sampling(2)))
        servers[0][0].gives_states = False
        with pytest.raises(RuntimeError, match="answered 400 .* not configured to return hidden"):
            list(engine.submit(mine[:1], Sampling(2)))
        servers[0][0].gives_states = True
    assert len(_prompts(servers[0][0])) == (kind == "sglang")


def test_an_embedder_runs_on_it(servers, kind):
    items = ["seven", {"image": PICTURE, "text": "what?"}]
    ours = Embedder.load("tiny", device="cpu").encode(items, "both", 30, progress=False)
    urls = ",".join(address for _, address in servers)
    embedder = Embedder.load("tiny", device="cpu", engine=f"{kind}:{urls}")
    theirs = embedder.encode(items, "both", 30, progress=False)
    assert ours.reasoning == theirs.reasoning and ours.finish == theirs.finish
    np.testing.assert_allclose(ours.disc, theirs.disc, atol=1e-4)
    np.testing.assert_allclose(ours.gen, theirs.gen, atol=1e-4)
    embedder.engine.close()
