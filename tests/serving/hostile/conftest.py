"""A real server with small limits, and an internet of liars around it."""

import asyncio
import io
import socket
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from umer1.serving import ServerSettings
from umer1.serving.body_limits import BodyLimits
from umer1.serving.media.checks import GateLimits
from umer1.serving.media.gate import MediaGate
from umer1.serving.media.urls import MediaUrls

sys.path.insert(0, str(Path(__file__).parent))  # what tests share is a plain module beside them

KEY = {"Authorization": "Bearer right"}
GOOD = {"input": "seven", "mode": "disc"}
# what the machine's own files and code would look like in a message
LEAKS = ("Traceback", "site-packages", ".py", "root:", "object at 0x", "/home/", "/tmp/")


@pytest.fixture(scope="session")
def internet():
    return Internet()


@pytest.fixture(scope="session")
def server(running_server, offline, internet, wait_until, tmp_path_factory):
    settings = ServerSettings(
        model_name="tiny",
        api_keys=("right",),
        max_body_bytes=1 << 20,
        max_items=8,
        max_text_characters=2000,
        max_media_per_item=4,
        max_tokens=32,
        max_prompt_tokens=180,
    )
    limits = GateLimits(video_frames=100, video_seconds=60)
    urls = MediaUrls(resolve=internet.resolve, transport=internet, seconds=0.5)
    sizes = offline.processor.limits
    gates = {
        False: MediaGate(settings, sizes=sizes, limits=limits),
        True: MediaGate(
            replace(settings, allow_media_urls=True), sizes=sizes, limits=limits, urls=urls
        ),
    }
    indexes = _indexes(offline, tmp_path_factory.mktemp("index"))
    good = offline.encode(GOOD["input"], mode=GOOD["mode"], progress=False).disc[0]
    with running_server(settings, indexes=indexes) as running:
        with httpx.Client(base_url=running.url, timeout=120) as client:
            yield Server(running, client, gates, good, wait_until)


class Server:
    """A server under attack."""

    def __init__(self, running, client, gates, good, wait_until):
        self.url, self.app, self.client = running.url, running.app, client
        self._gates, self._good, self._wait_until = gates, good, wait_until

    def ask(self, request, urls=False):
        """The answer to `request`, a dict of httpx' arguments with POST /v1/embeddings and the key
        as defaults. urls: the server opens addresses."""
        self.app.state.gate = self._gates[urls]
        request = {"method": "POST", "url": "/v1/embeddings", **request}
        request["headers"] = KEY | request.get("headers", {})
        return self.client.request(**request)

    def check_refused(self, request, status, code, fragment, urls=False):
        """One row of a table: the answer is as written there, says nothing about the machine, and
        leaves the server as it was."""
        answer = self.ask(request, urls)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code, error
        assert fragment in error["message"], error
        assert len(error["message"]) < 2500
        assert not [leak for leak in LEAKS if leak in answer.text], answer.text
        self.check_well()

    def check_well(self):
        """A good request gets the offline vector, bit for bit; nothing is held any more."""
        answer = self.client.post("/v1/embeddings", json=GOOD, headers=KEY)
        assert answer.status_code == 200, answer.text
        vector = np.array(answer.json()["data"][0]["embedding"], np.float32)
        assert np.array_equal(vector, self._good)
        self._wait_until(lambda: self._held() == (0, 0, 0))

    def _held(self):
        state = self.app.state.runner.describe()
        stack = self.app.middleware_stack
        while not isinstance(stack, BodyLimits):
            stack = stack.app
        return state["rows"], state["pages_held"], stack.held


class Internet(httpx.AsyncBaseTransport):
    """Names, and what answers at their addresses. `connected`: addresses that were asked."""

    NAMES = {
        "public.example": ["93.184.215.14"],
        "inside.example": ["10.0.0.7"],
        "metadata.example": ["169.254.169.254"],
        "both.example": ["93.184.215.14", "127.0.0.1"],
        "six.example": ["fd00:ec2::254"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "translated.example": ["64:ff9b::7f00:1"],
    }

    def __init__(self):
        self.connected, self._turns = [], 0

    async def resolve(self, host, port):
        if host == "turning.example":  # public when it is looked up first, then not
            self._turns += 1
            return ["93.184.215.14" if self._turns % 2 else "127.0.0.1"]
        if host not in self.NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.NAMES[host]

    async def handle_async_request(self, request):
        self.connected.append(request.url.host)
        path = request.url.path
        to = lambda place: httpx.Response(302, headers={"Location": place})
        kinds = {"content-type": "image/png"}
        png = _png()
        answers = {
            "/ok.png": lambda: httpx.Response(200, headers=kinds, stream=_Bytes(png)),
            "/inside": lambda: to("http://inside.example/x.png"),
            "/metadata": lambda: to("http://169.254.169.254/latest/meta-data"),
            "/loopback": lambda: to("//127.0.0.1/x.png"),
            "/file": lambda: to("file:///etc/passwd"),
            "/port": lambda: to("http://public.example:22/"),
            "/turn": lambda: to("http://turning.example/turned"),
            "/loop": lambda: to("/loop"),
            "/nowhere": lambda: httpx.Response(302),
            "/down": lambda: to("http://public.example/ok.png"),
            "/missing": lambda: httpx.Response(404, headers=kinds, content=png),
            "/html": lambda: httpx.Response(200, headers={"content-type": "text/html"}),
            "/svg": lambda: httpx.Response(200, headers=kinds, stream=_Bytes(b"<svg onload='x'/>")),
            "/packed": lambda: httpx.Response(
                200, headers=kinds | {"content-encoding": "gzip"}, stream=_Drip(4)
            ),
            "/long": lambda: httpx.Response(
                200, headers=kinds | {"content-length": str(1 << 40)}, stream=_Drip(4)
            ),
            "/endless": lambda: httpx.Response(200, headers=kinds, stream=_Drip(1 << 20)),
            "/stalls": lambda: httpx.Response(200, headers=kinds, stream=_Stall()),
        }
        return answers[path]()


class _Bytes(httpx.AsyncByteStream):
    def __init__(self, data):
        self.data = data

    async def __aiter__(self):
        yield self.data


class _Drip(httpx.AsyncByteStream):
    def __init__(self, count):
        self.count = count

    async def __aiter__(self):
        for _ in range(self.count):
            yield bytes(1 << 20)


class _Stall(httpx.AsyncByteStream):
    async def __aiter__(self):
        yield b"\x89PNG"
        await asyncio.sleep(3600)


def _png():
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    return file.getvalue()


def _indexes(embedder, directory):
    from umer1.retrieval import VectorIndex

    index = VectorIndex.create(
        directory / "numbers", model="tiny", dimension=embedder.dimension, modes=("disc",)
    )
    words = ["one", "two", "seven"]
    vectors = embedder.encode(words, mode="disc", progress=False).disc
    index.add(words, {"disc": vectors}, entries=[{"text": word} for word in words])
    return {"numbers": index}
