"""What servers refuse, lose or never get: told plainly, tried again where that helps, cancelled."""

from __future__ import annotations

import time

import pytest
import torch
from rollout_checks import prompts_of

from umer1.engine import Prompt, Sampling
from umer1.engine.remote import http_client
from umer1.engine.remote.sglang import sglang_engine
from umer1.engine.remote.vllm import vllm_engine


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
        _until(lambda: len(prompts_of(server)) == 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(engine.submit(source(), Sampling(2)))
    _until(lambda: server.gone == 2)
    server.hold.clear()
    assert len(list(engine.submit(mine[:1], Sampling(2)))) == 1


def _until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)


def test_a_passing_failure_is_tried_again_and_another_is_told(
    make_engine, servers, mine, monkeypatch
):
    monkeypatch.setattr(http_client, "_WAITS", (0.0, 0.0))
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
    monkeypatch.setattr(http_client, "_WAITS", (0.0,))
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
    make_engine, servers, kind, mine, prompts, processor, picture
):
    engine = make_engine()
    few = picture.resize((56, 28))
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
    assert len(prompts_of(servers[0][0])) == (kind == "sglang")
