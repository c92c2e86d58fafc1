"""/v1/chat/completions over HTTP: OpenAI's client reads it, vectors are the offline ones, who leaves costs nothing."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from umer1 import Embedder
from umer1.serving import ServerSettings, create_app

TEXT = "What is the last digit of the sum of 3, 4 and 7?"
ASK = [{"role": "user", "content": TEXT}]
SECONDS = 120  # for what takes one


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def offline():
    return Embedder.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def app(embedder):
    return create_app(embedder, ServerSettings(model_name="tiny", max_tokens=1024))


@pytest.fixture(scope="module")
def address(app):
    """A real server on a free port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def quiet(app):
    """No request holds anything of the engine."""
    state = app.state.runner.describe()
    return state["rows"] == state["running"] == state["pages_held"] == 0


def picture():
    image = Image.fromarray(np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return image, "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def written(embedder, text):
    """The text that the offline engine writes, and its embeddings."""
    from umer1.engine import Sampling

    prompt = embedder.prompt(text, "both")
    rollout = next(embedder.engine.submit([prompt], Sampling())).rollout
    return embedder.processor.decode(rollout.tokens), embedder.encode(text, progress=False)


def test_streamed_text_and_vectors_are_the_offline_ones(client, offline, monkeypatch):
    monkeypatch.setattr("umer1.serving.routes.chat.PACE", 0.0)
    text, wanted = written(offline, TEXT)
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"mode": "both"},
        )
    )
    *pieces, last, usage = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    told = [chunk.choices[0].delta.content for chunk in pieces]
    assert "".join(told) == text and len(told) > wanted.tokens[0] // 2, "it comes as it is written"
    assert all(chunk.choices[0].finish_reason is None for chunk in pieces)
    assert last.choices[0].finish_reason == "stop" and not last.choices[0].delta.content
    vectors = last.model_extra["embedding"]
    np.testing.assert_array_equal(np.array(vectors["gen"], np.float32), wanted.gen[0])
    np.testing.assert_array_equal(np.array(vectors["disc"], np.float32), wanted.disc[0])
    assert (vectors["reasoning"], vectors["summary"]) == (wanted.reasoning[0], wanted.summary[0])
    assert vectors["finish"] == wanted.finish[0] == "gen_emb"
    prompt = len(offline.processor.encode(TEXT).input_ids)
    assert not usage.choices and usage.usage.prompt_tokens == prompt
    assert usage.usage.completion_tokens == wanted.tokens[0]
    assert len({chunk.id for chunk in chunks}) == 1 and last.model == "tiny"


def test_what_is_written_faster_than_anyone_reads_comes_in_larger_pieces(
    client, offline, monkeypatch
):
    """The first piece at once, the rest when it is time again or over; nothing is lost."""
    monkeypatch.setattr("umer1.serving.routes.chat.PACE", 1000.0)
    chunks = client.chat.completions.create(model="tiny", messages=ASK, stream=True)
    told = [chunk.choices[0].delta.content for chunk in chunks]
    assert len([piece for piece in told if piece]) == 2
    assert "".join(piece or "" for piece in told) == written(offline, TEXT)[0]


def test_the_whole_answer_is_what_the_stream_joins_to(client, offline):
    text, wanted = written(offline, TEXT)
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, extra_body={"encoding_format": "base64"}
    )
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    vectors = answer.model_extra["embedding"]
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(vectors["gen"]), "<f4"), wanted.gen[0]
    )
    assert vectors["disc"] is None, "nobody asked for it"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + wanted.tokens[0]


def test_pictures_samples_and_budgets(client, offline):
    """A picture with settings of the generation: the same bits as `encode` with the same arguments."""
    image, url = picture()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is it?"},
    ]
    settings = {"temperature": 0.9, "top_p": 0.8, "seed": 5, "max_think_tokens": 3}
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": parts}],
        temperature=0.9,
        top_p=0.8,
        seed=5,
        max_completion_tokens=40,
        extra_body={"max_think_tokens": 3},
    )
    item = {"image": image, "text": "What is it?"}
    wanted = offline.encode(item, "gen", 40, progress=False, **settings)
    vectors = answer.model_extra["embedding"]
    np.testing.assert_array_equal(np.array(vectors["gen"], np.float32), wanted.gen[0])
    assert vectors["reasoning"] == wanted.reasoning[0]


def test_a_row_that_is_cut_says_length(client):
    answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2, stream=True)
    last = list(answer)[-1]
    assert last.choices[0].finish_reason == "length"
    assert last.model_extra["embedding"]["finish"] == "length"


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": []}, "messages", "a list of messages"),
        ({"messages": ASK * 2}, "messages", "one user turn"),
        ({"mode": "disc"}, "mode", "'gen' or 'both'"),
        ({"n": 2}, "n", "less than or equal to 1"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, None, "one of 'max_tokens'"),
        ({"max_tokens": 4096}, "max_tokens", "at most 1024"),
        ({"dimensions": 3}, "dimensions", "trained"),
        ({"tools": []}, "tools", "not permitted"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "data:,x"}]}
                ]
            },
            None,
            "",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_a_status_also_of_a_stream(address, change, param, message, stream):
    body = {"model": "tiny", "messages": ASK, "stream": stream, **change}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=SECONDS)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param


def test_an_error_in_the_middle_is_the_last_event(address, app, monkeypatch):
    """The engine fails after some tokens: the client is told in the stream, and the next request works."""
    engine, steps = app.state.runner.host.engine, []
    step = engine.step

    def failing():
        steps.append(None)
        if len(steps) == 5:
            raise RuntimeError("out of memory")
        step()

    monkeypatch.setattr(engine, "step", failing)
    body = {"messages": ASK, "stream": True}
    answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=SECONDS)
    *events, last = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert answer.status_code == 200 and len(events) > 1
    assert json.loads(last)["error"]["type"] == "server_error", "and no [DONE] after it"
    again = httpx.post(f"{address}/v1/chat/completions", json={"messages": ASK}, timeout=SECONDS)
    assert again.status_code == 200
    wait_for(lambda: quiet(app))


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_takes_the_request_along(address, app, monkeypatch, stream):
    """The engine stops writing for a client that has gone; all pages are free again."""
    engine = app.state.runner.host.engine
    step, written, hold = engine.step, threading.Event(), threading.Event()

    def slow():  # the row cannot end before its client has left
        step()
        if engine.stepper.scheduler.running:
            written.set()
            hold.wait(0.3)  # its last token would come after minutes

    monkeypatch.setattr(engine, "step", slow)
    # a temperature at which the model writes at random, to the limit
    body = {"messages": ASK, "stream": stream, "max_tokens": 1000, "temperature": 50.0, "seed": 1}
    left = app.state.metrics.registry.get_sample_value
    name = "umer1_http_responses_total"
    labels = {"route": "/v1/chat/completions", "status": "499" if not stream else "200"}
    before = left(name, labels) or 0
    content = json.dumps(body).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(content)
            + content
        )
        assert written.wait(SECONDS)
        if stream:
            assert b"200 OK" in connection.recv(4096)
    wait_for(lambda: quiet(app))
    rows = engine.stepper.scheduler.running
    assert not rows and (left(name, labels) or 0) >= before
    hold.set()
    engine.stepper.scheduler.check()
