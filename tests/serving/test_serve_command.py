"""`umer1 serve`: a real process, its shutdown, and what it refuses to start with."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest

from umer1.cli import main
from umer1.cli.serve import open_indexes, read_keys


@pytest.fixture
def process(tmp_path):
    """(process, url) of a server with the key "secret"."""
    keys = tmp_path / "keys"
    keys.write_text("# for the tests\n\nsecret\n")
    command = [sys.executable, "-m", "umer1.cli", "serve", "tiny", "--port", "0"]
    options = ["--api-key-file", str(keys), "--device", "cpu", "--mode", "both"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command + options, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            for line in server.stderr:
                if found := re.search(r"serving at (http://\S+)", line):
                    break
            yield server, found[1]
        finally:
            server.kill()


@pytest.mark.slow
def test_sigterm_finishes_what_runs_and_ends_with_0(process, offline):
    server, url = process
    headers = {"Authorization": "Bearer secret"}
    assert httpx.get(f"{url}/v1/models").status_code == 401
    texts = [f"number {place} and 7" for place in range(96)]
    body = json.dumps({"input": texts}).encode()
    host, port = url.removeprefix("http://").split(":")
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=120) as client:
        client.sendall(head.encode() + body)
        while "umer1_running_rows 0.0" in httpx.get(f"{url}/metrics", headers=headers).text:
            pass
        server.send_signal(signal.SIGTERM)
        answer = client.makefile("rb")
        assert answer.readline().startswith(b"HTTP/1.1 200")
        while answer.readline() != b"\r\n":
            pass
        data = json.loads(answer.read())["data"]
    assert server.wait(120) == 0
    wanted = offline.encode(texts, "both", progress=False)
    assert np.array_equal(np.float32([each["embedding"] for each in data]), wanted.gen)
    assert np.array_equal(np.float32([each["disc"] for each in data]), wanted.disc)


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("# two\n one \n\ntwo\n")
    assert read_keys(file) == ("one", "two")
    monkeypatch.setenv("UMER1_API_KEYS", "a, b,")
    assert read_keys(None) == ("a", "b")
    monkeypatch.delenv("UMER1_API_KEYS")
    assert read_keys(None) == ()
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="holds no key"):
        read_keys(file)


@pytest.mark.parametrize("option", ["photos", "=there", "name=", "a/b=there"])
def test_indexes_are_named(option):
    with pytest.raises(ValueError, match="wants NAME=DIRECTORY"):
        open_indexes([option])


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--mode", "fused"], "mode: got 'fused'"),
        (["--media-domain", "example.org"], "--allow-media-urls"),
        (["--max-waiting", "0"], "max_waiting: got 0"),
        (["--api-key-file", "nowhere"], "nowhere"),
        (["--port", "70000"], "port"),
    ],
)
def test_wrong_options_are_one_line(arguments, fragment, capsys):
    assert main(["serve", "tiny", "--device", "cpu", *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("umer1: error: ") and fragment in lines[-1]


def test_an_address_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "tiny", "--device", "cpu", "--port", port]) == 1
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err
