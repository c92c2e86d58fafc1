"""An endpoint that answers, or misbehaves as its script says; pairs to annotate."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from umer1.data import open_set
from umer1.data.annotation import Options, Retries, annotate

GOOD = "<think>It shows a cat.</think><answer>a cat</answer>"
USAGE = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}


def completion(content=GOOD, *, finish="stop", usage=USAGE, **message):
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return body | ({"usage": usage} if usage else {})


class MisbehavingServer(ThreadingHTTPServer):
    """`script` holds what the next requests meet, then all is well. `answer` makes the good answer's
    body of a request's; `before` is called with what a request will meet. `requests` holds (time, body) of all,
    `most` how many were there at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.requests, self.headers = [], [], []
        self.answer, self.before = lambda body: completion(), lambda meets: None
        self.lock, self.now, self.most, self.delay = threading.Lock(), 0, 0, 0.0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def words(self):
        """The text part of every request."""
        return [words_of(body) for _, body in self.requests]

    def handle_error(self, request, address):
        """Clients that go away are part of the tests."""


def words_of(body):
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((time.monotonic(), body))
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.now += 1
            server.most = max(server.most, server.now)
            meets = server.script.pop(0) if server.script else "good"
        try:
            time.sleep(server.delay)
            server.before(meets)
            getattr(self, f"meet_{meets}", self.meet_status)(meets, body)
        finally:
            with server.lock:
                server.now -= 1

    def send(self, status, content, headers=(), length=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def meet_good(self, _, body):
        self.send(200, json.dumps(self.server.answer(body)).encode())

    def meet_status(self, meets, body):
        """429, or (429, {"Retry-After": "1"}), or (400, {}, "message")."""
        status, headers, told = (
            (*meets, {}, "no")[:3] if isinstance(meets, tuple) else (meets, {}, "no")
        )
        error = {"error": {"message": told, "code": "some_code"}}
        self.send(status, json.dumps(error).encode(), headers)

    def meet_half(self, _, body):
        """The connection ends in the middle of the answer."""
        content = json.dumps(completion()).encode()
        self.send(200, content[: len(content) // 2], length=len(content))
        self.close_connection = True

    def meet_disconnect(self, _, body):
        self.close_connection = True

    def meet_junk(self, _, body):
        self.send(200, b"<html>upstream says hello</html>", {"Content-Type": "text/html"})

    def meet_cut_json(self, _, body):
        self.send(200, json.dumps(completion()).encode()[:-20])

    def meet_odd(self, _, body):
        """JSON of another shape."""
        self.send(200, b'{"choices": [{"message": "hello"}]}')

    def meet_empty(self, _, body):
        self.send(200, json.dumps(completion("")).encode())

    def meet_drip(self, _, body):
        """A byte now and then: silence never lasts, the answer never ends."""
        content = json.dumps(completion()).encode()
        self.send(200, content[:1], length=len(content))
        try:
            for place in range(1, 100):
                time.sleep(0.05)
                self.wfile.write(content[place : place + 1])
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True

    def meet_silence(self, _, body):
        time.sleep(1.0)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = MisbehavingServer()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def fast_retries():
    return Retries(attempts=6, first_wait=0.01, longest_wait=0.05)


@pytest.fixture
def run(server, fast_retries, tmp_path):
    """run(store, out="out", limit=None, **options) -> statistics."""

    def call(store, out="out", limit=None, **options):
        given = {"url": server.url, "retries": fast_retries, "concurrency": 4, "timeout": 5.0}
        return annotate(
            store, tmp_path / out, Options(**(given | options)), root=tmp_path, limit=limit,
            progress=False,
        )  # fmt: skip

    return call


@pytest.fixture
def chat():
    """completion(content, finish=, usage=, reasoning=…) -> body of an answer."""
    return completion


@pytest.fixture
def pairs(tmp_path):
    """pairs(6) -> path of RL rows: text → picture, video → text and so on; every target differs."""

    def write(count, name="rl.jsonl", **more):
        media = tmp_path / "media"
        media.mkdir(exist_ok=True)
        for number in range(4):
            Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(media / f"{number}.png")
        rows = []
        for number in range(count):
            row = {
                "dataset": "d",
                "dataset_name": ("cats", "dogs")[number % 2],
                "qry_text": f"question {number}",
                "qry_image": f"media/{number % 4}.png" if number % 3 == 0 else "",
                "qry_video": ["media/0.png", "media/1.png"] if number % 3 == 1 else [""],
                "solution": "<embedding>",
                "pos_text": f"answer {number}",
                "pos_image": "",
                "pos_video": [""],
            }
            rows.append(row | more)
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return write


@pytest.fixture
def store(pairs):
    """store(6) -> PairStore of such rows."""
    return lambda count, **more: open_set(pairs(count, **more), "rl")
