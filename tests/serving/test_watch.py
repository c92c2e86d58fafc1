"""A request ends when its client leaves or its time is up; metrics tell of both, and of the rest."""

import http.client
import json
import re
import socket

import httpx

from umer1 import Embedder
from umer1.serving import ServerSettings

BODY = json.dumps({"input": "seven", "temperature": 50.0, "max_tokens": 200}).encode()


def request(body=BODY, length=None):
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


def connect(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=120)


def read_answer(client):
    """(status, body)"""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, answer.read().decode()


def metric(url, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{url}/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def test_a_client_that_leaves_costs_nothing_more(running_server, held_engine, wait_until):
    embedder = Embedder.load("tiny", device="cpu")
    with running_server(embedder=embedder) as server:
        held = held_engine(embedder.engine)
        clients = [connect(server.url) for _ in range(3)]
        for client in clients:
            client.sendall(request())
        wait_until(lambda: server.runner.describe()["rows"] == 3)
        for client in clients:
            client.close()
        wait_until(lambda: server.runner.describe()["rows"] == 0)
        held.release()
        wait_until(lambda: server.runner.describe()["pages_held"] == 0)
        name = 'umer1_http_responses_total{route="/v1/embeddings",status="499"}'
        wait_until(lambda: metric(server.url, name) == 3)
        after = httpx.post(f"{server.url}/v1/embeddings", json={"input": "seven"}, timeout=120)
        assert after.status_code == 200
        embedder.engine.stepper.scheduler.check()


def test_time_limits_of_computing_and_of_slow_bodies(running_server, held_engine, wait_until):
    embedder = Embedder.load("tiny", device="cpu")
    with running_server(ServerSettings(request_seconds=0.3), embedder) as server:
        held = held_engine(embedder.engine)
        for sent in (request(), request(BODY[:20], len(BODY))):
            with connect(server.url) as client:
                client.sendall(sent)
                status, answer = read_answer(client)
            assert status == 504 and '"time_limit"' in answer
        held.release()
        wait_until(lambda: server.runner.describe()["pages_held"] == 0)
        name = 'umer1_http_responses_total{route="/v1/embeddings",status="504"}'
        assert metric(server.url, name) >= 1


def test_a_full_queue_answers_429(running_server, held_engine, wait_until):
    embedder = Embedder.load("tiny", device="cpu")
    slots = embedder.engine.slots
    with running_server(ServerSettings(max_waiting=1), embedder) as server:
        held = held_engine(embedder.engine)
        with connect(server.url) as client:
            body = {"input": ["a"] * (slots + 1), "max_tokens": 2}
            client.sendall(request(json.dumps(body).encode()))
            wait_until(lambda: server.runner.describe()["rows"] == slots + 1)
            full = httpx.post(f"{server.url}/v1/embeddings", json={"input": "b"})
            held.release()
            assert read_answer(client)[0] == 200
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
    assert full.json()["error"]["type"] == "rate_limit_error"


def test_a_failing_engine_answers_500_and_goes_on(running_server):
    embedder = Embedder.load("tiny", device="cpu")
    with running_server(embedder=embedder) as server:
        step = embedder.engine.step

        def broken():
            embedder.engine.step = step
            raise RuntimeError("a secret of the machine")

        embedder.engine.step = broken
        post = lambda: httpx.post(f"{server.url}/v1/embeddings", json={"input": "a"}, timeout=120)
        failed, after = post(), post()
        assert metric(server.url, "umer1_engine_failures") == 1
    assert failed.status_code == 500 and after.status_code == 200
    assert failed.json()["error"]["code"] == "internal" and "secret" not in failed.text


def test_metrics_count_what_was_computed(running_server, offline):
    with running_server() as server:
        texts = ["seven", "3 + 4"]
        both = {"input": texts, "mode": "both"}
        assert httpx.post(f"{server.url}/v1/embeddings", json=both, timeout=120).status_code == 200
        disc = {"input": "seven", "mode": "disc"}
        assert httpx.post(f"{server.url}/v1/embeddings", json=disc, timeout=120).status_code == 200
        httpx.get(f"{server.url}/made/up")
        wanted = offline.encode(texts, "both", progress=False)
        sevens = len(offline.processor.encode("seven", mode="disc"))
        read = sum(len(offline.processor.encode(text, mode="gen")) for text in texts) + sevens
        finished = {finish: wanted.finish.count(finish) for finish in wanted.finish}
        for name, value in {
            'umer1_embeddings_total{kind="gen"}': 2,
            'umer1_embeddings_total{kind="disc"}': 3,
            "umer1_prompt_tokens_total": read,
            "umer1_generated_tokens_total": sum(wanted.tokens),
            'umer1_item_seconds_count{mode="both"}': 2,
            'umer1_request_seconds_count{route="/v1/embeddings"}': 2,
            'umer1_http_responses_total{route="other",status="404"}': 1,
            "umer1_queue_rows": 0,
            "umer1_kv_pages_held": 0,
            "umer1_ready": 1,
            **{f'umer1_generations_total{{finish="{key}"}}': n for key, n in finished.items()},
        }.items():
            assert metric(server.url, name) == value, name
        assert metric(server.url, "umer1_kv_pages") > metric(server.url, "umer1_kv_pages_kept") > 0
