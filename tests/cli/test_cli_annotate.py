"""`umer1 data annotate`, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Teacher(ThreadingHTTPServer):
    """Answers every question after `delay` seconds; `asked` holds the questions in order."""

    daemon_threads = True
    delay = 0.0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, address):
        """A killed client is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = body["messages"][-1]["content"].split("----")[1].strip()
        self.server.asked.append(words)
        time.sleep(self.server.delay)
        text = f"<think>about {words}</think><answer>{words}</answer>"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 20}
        content = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def teacher(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    made = Teacher()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def pairs(tmp_path):
    def write(count):
        texts = [
            {"qry_text": f"q{n}", "pos_text": f"t{n}", "dataset_name": "d"} for n in range(count)
        ]
        (tmp_path / "rl.json").write_text(json.dumps(texts))
        return tmp_path / "rl.json"

    return write


def url(teacher):
    return f"http://127.0.0.1:{teacher.server_port}/v1"


def test_annotate_then_check(run, teacher, pairs, tmp_path):
    out = tmp_path / "out"
    given = ("--endpoint", url(teacher), "--price-in", 2, "--price-out", 5, "-q")
    result = run("data", "annotate", pairs(3), "-o", out, *given)
    assert result.status == 0, result.err
    assert "cost      0.00072" in result.out and "120 out" in result.out
    assert "3 of 3 pairs are in" in result.err
    result = run("data", "check", out / "sft.jsonl", "--data-path", tmp_path, "-q")
    assert result.status == 0 and result.out.endswith("no problems\n")
    # other settings of the filter are no new questions
    result = run("data", "annotate", pairs(3), "-o", out, *given, "--box", "keep", "--json")
    assert json.loads(result.out)["asked"] == 0 and len(teacher.asked) == 6


def test_a_limit_and_the_environments_endpoint(run, teacher, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url(teacher))
    result = run("data", "annotate", pairs(5), "-o", tmp_path / "out", "--limit", 2, "-q", "--json")
    assert json.loads(result.out)["pairs"] == 2 and sorted(teacher.asked) == [
        "q0",
        "q1",
        "t0",
        "t1",
    ]


def test_prompts_are_shown_without_asking(run, teacher, pairs):
    result = run("data", "annotate", pairs(1), "--show-prompts", "--endpoint", url(teacher))
    assert result.status == 0, result.err
    assert "# the first pair's query:" in result.out and "----\nq0\n----" in result.out
    assert teacher.asked == []


def test_nobody_listens_is_one_line(run, pairs, tmp_path):
    given = ("--endpoint", "http://127.0.0.1:1/v1", "--attempts", 1, "--concurrency", 1, "-q")
    result = run("data", "annotate", pairs(30), "-o", tmp_path / "out", *given)
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert "http://127.0.0.1:1/v1: 17 questions in a row got no answer" in line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "--output: wants a folder"),
        (("--box", "drop"), "box: got 'drop', wants one of strip, keep"),
        (("--extra-body", "[1]"), "--extra-body: wants a JSON object"),
        (("--extra-body", "{"), "--extra-body: not valid JSON"),
        (("--prompts", "gone.yaml"), "prompts: no such file: gone.yaml"),
        (("--endpoint", "localhost:8000/v1"), "endpoint: got 'localhost:8000/v1', wants http://"),
        (("--timeout", 0), "timeout: wants seconds above 0"),
        (("--price-in", -1), "price_in: wants a price from 0"),
        (("--image-pixels", 10), "image_pixels: wants a whole number from 784"),
        (("--tokenizer", "gone.json"), "tokenizer: no such file: gone.json"),
    ],
)
def test_bad_settings_are_one_line(run, pairs, tmp_path, given, message):
    output = ("-o", tmp_path / "out") if given else ()
    result = run("data", "annotate", pairs(1), *output, *given, "-q")
    assert result.status == 1 and message in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow  # several starts of Python
def test_killed_at_any_moment_it_goes_on(teacher, pairs, tmp_path):
    """kill -9, three times; no question whose answer had arrived is asked again."""
    teacher.delay = 0.02
    path, out = pairs(60), tmp_path / "out"
    command = [sys.executable, "-m", "umer1.cli", "data", "annotate", path, "-o", out]
    command += ["--endpoint", url(teacher), "--concurrency", "4", "-q"]
    answers = out / "answers.jsonl"

    def answered():
        return answers.read_bytes().count(b"\n") if answers.exists() else 0

    kept = set()
    for wanted in (20, 50, 80):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ))
        while answered() < wanted:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept |= {
            json.loads(line)["content"]
            for line in answers.read_text().splitlines(True)
            if line.endswith("\n")
        }
        before = len(teacher.asked)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = Counter(teacher.asked)
    assert len(counts) == 120
    # at most those on their way at a kill are asked once more
    assert sum(counts.values()) - 120 <= 3 * 4
    again = set(teacher.asked[before:])
    assert not again & {text.rpartition("<answer>")[2].removesuffix("</answer>") for text in kept}
    assert len((out / "sft.jsonl").read_text().splitlines()) == 60
