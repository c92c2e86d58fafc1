"""Requests that are wrong, against the real server."""

import json
import socket

import pytest
from wrong_requests import KEYS, ROWS, embed, raw, stream


@pytest.mark.parametrize("name", ROWS)
def test_request_is_refused(server, name):
    request, status, code, fragment = ROWS[name]
    if request == "stream":
        request = raw(stream(2 << 20))
    server.check_refused(request, status, code, fragment)


@pytest.mark.parametrize("name", KEYS)
def test_stranger_is_refused(server, name):
    request, fragment = KEYS[name]
    server.check_refused(request, 401, "invalid_api_key", fragment)


def test_client_that_leaves_in_the_middle_of_a_body(server):
    host, port = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection((host, port)) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer right\r\n"
            b"Content-Type: application/json\r\nContent-Length: 500000\r\n\r\n" + b"a" * 1000
        )
    server.check_well()


def test_two_lengths_of_a_body(server):
    """A request that a proxy and this server might read differently."""
    host, port = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Content-Length: 6\r\n\r\nabcdef"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    server.check_well()


def test_answers_are_json_whatever_is_asked(server):
    """A message is data: a browser that is shown one has nothing to run."""
    answer = server.ask(embed(model="<script>alert(1)</script>"))
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text)["error"]["code"] == "model_not_found"
