"""A real server with small limits, an internet of liars around it, and files that want to hurt."""

import base64
import io
import socket
import struct
import threading
import time
import zlib
from fractions import Fraction

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from umer1 import Embedder
from umer1.serving import ServerSettings, create_app
from umer1.serving.body_limits import BodyLimits
from umer1.serving.media_checks import GateLimits
from umer1.serving.media_gate import MediaGate
from umer1.serving.media_urls import MediaUrls

KEY = {"Authorization": "Bearer right"}
GOOD = {"input": "seven", "mode": "disc"}
# what the machine's own files and code would look like in a message
LEAKS = ("Traceback", "site-packages", ".py", "root:", "object at 0x", "/home/", "/tmp/")


@pytest.fixture(scope="session")
def embedder():
    return Embedder.load("tiny")


@pytest.fixture(scope="session")
def internet():
    return Internet()


@pytest.fixture(scope="session")
def server(embedder, internet, tmp_path_factory):
    settings = ServerSettings(
        model_name="tiny",
        api_keys=("right",),
        max_body_bytes=1 << 20,
        max_items=8,
        max_text_characters=2000,
        max_media_per_item=4,
        max_tokens=32,
    )
    open_settings = ServerSettings(allow_media_urls=True)
    limits = GateLimits(video_frames=100, video_seconds=60, item_tokens=100)
    app = create_app(embedder, settings, _indexes(embedder, tmp_path_factory.mktemp("index")))
    urls = MediaUrls(resolve=internet.resolve, transport=internet, seconds=0.5)
    sizes = embedder.processor.limits
    gates = {
        False: MediaGate(settings, sizes=sizes, limits=limits),
        True: MediaGate(open_settings, sizes=sizes, limits=limits, urls=urls),
    }
    with _running(app) as address, httpx.Client(base_url=address, timeout=120) as client:
        offline = embedder.encode("seven", mode="disc", progress=False).disc[0]
        yield Server(app, client, gates, offline)


class Server:
    """A server under attack. address: http://127.0.0.1:PORT."""

    def __init__(self, app, client, gates, offline):
        self.app, self.client, self._gates, self._offline = app, client, gates, offline

    @property
    def address(self):
        return str(self.client.base_url)

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
        assert np.array_equal(vector, self._offline)
        _until(lambda: self._held() == (0, 0, 0))

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
        png = _png(20, 20)
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
            "/svg": lambda: httpx.Response(200, headers=kinds, stream=_Bytes(SVG)),
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
        import asyncio

        yield b"\x89PNG"
        await asyncio.sleep(3600)


def _indexes(embedder, directory):
    from umer1.retrieval import VectorIndex

    index = VectorIndex.create(
        directory / "numbers", model="tiny", dimension=embedder.dimension, modes=("disc",)
    )
    words = ["one", "two", "seven"]
    vectors = embedder.encode(words, mode="disc", progress=False).disc
    index.add(words, {"disc": vectors}, entries=[{"text": word} for word in words])
    return {"numbers": index}


class _running:
    """The application behind uvicorn at a free port."""

    def __init__(self, app):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )

    def __enter__(self):
        self.thread.start()
        _until(lambda: self.server.started)
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.01)


# Files.

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


@pytest.fixture(scope="session")
def uri():
    """(name of a file, media type) -> its data URI."""
    return lambda name, declared: f"data:{declared};base64,{base64.b64encode(_file(name)).decode()}"


@pytest.fixture(scope="session")
def hostile_file():
    """The bytes of a file by name."""
    return _file


_MADE = {}


def _file(name):
    if name not in _MADE:
        _MADE[name] = FILES[name]()
    return _MADE[name]


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, rows=None, lost=0):
    """A black picture; `rows`: so many of them are there; `lost`: bytes missing of the data."""
    rows = height if rows is None else rows
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 7) // 8 + 1) * rows, 0 if lost else 9)
    data = data[: len(data) - lost]
    chunks = [_chunk(b"IHDR", head), _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _picture(name, **options):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, name, **options)
    return file.getvalue()


def _cut(data):
    return data[: len(data) * 2 // 3]


def _changed(data, place, new):
    return data[:place] + new + data[place + len(new) :]


def _zip():
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.txt", "x")
    return file.getvalue()


def _clip(form, codec, frames=6, size=(64, 48), rate=10, then=()):
    """A video file; `then`: sizes of further key frames that its header does not speak of."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for packet in _packets(stream, size, range(frames), rate):
            container.mux(packet)
        for number, other in enumerate(then):
            context = av.CodecContext.create(codec, "w")
            context.width, context.height, context.pix_fmt = *other, "yuv420p"
            context.time_base, context.framerate = Fraction(1, rate), Fraction(rate)
            for packet in _packets(context, other, [frames + number], rate):
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def _packets(encoder, size, places, rate):
    import av

    for place in places:
        frame = av.VideoFrame(*size, "yuv420p")
        frame.pts, frame.time_base = place, 1 / Fraction(rate)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        yield from encoder.encode(frame)
    yield from encoder.encode(None)


def _sound():
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 160), np.int16), "s16", "mono")
        frame.rate, frame.pts = 16000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def _many_scans():
    data = _picture("JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff", start + 2)]
    return data[:start] + scan * 200 + data[start:]


FILES = {
    "good.png": lambda: _png(20, 20),
    "good.jpg": lambda: _picture("JPEG"),
    "good.mp4": lambda: _clip("mp4", "mpeg4"),
    "good.webm": lambda: _clip("webm", "libvpx"),
    "empty": lambda: b"",
    "zeros": lambda: bytes(1000),
    "svg": lambda: SVG,
    "html": lambda: b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "pdf": lambda: b"%PDF-1.7\n1 0 obj\n",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
    "zip": _zip,
    "ppm": lambda: b"P6 4 4 255\n" + bytes(48),
    "playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "avif": lambda: struct.pack(">I", 32) + b"ftypavif" + bytes(20),
    "cut.png": lambda: _cut(_png(200, 200)),
    "cut.jpg": lambda: _cut(_picture("JPEG")),
    "cut.webp": lambda: _cut(_picture("WEBP")),
    "cut.gif": lambda: _cut(_picture("GIF")),
    "cut.bmp": lambda: _cut(_picture("BMP")),
    "cut.tiff": lambda: _cut(_picture("TIFF")),
    "cut.mp4": lambda: _cut(_clip("mp4", "mpeg4")),
    "cut.webm": lambda: _cut(_clip("webm", "libvpx")),
    "bomb.png": lambda: _png(12000, 12000),
    "lie.png": lambda: _png(200_000, 200_000, rows=1),
    "wide.png": lambda: _png(40_000, 2),
    "half.png": lambda: _png(100, 100, lost=900),
    "two_headers.png": lambda: _changed(
        _png(20, 20), 33, _chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
    ),
    "bad_check.png": lambda: _changed(_png(20, 20), 45, b"\xff\xff\xff"),
    "huge.jpg": lambda: _changed(
        data := _picture("JPEG"), data.index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff"
    ),
    "scans.jpg": _many_scans,
    "frame.gif": lambda: _changed(
        data := _picture("GIF"), data.index(b",\0\0\0\0") + 5, b"\x60\xea\x60\xea"
    ),
    "huge.webp": lambda: (
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + b"\xff\x3f\0\xff\x3f\0"
    ),
    "huge.bmp": lambda: _changed(_picture("BMP"), 18, struct.pack("<ii", 100_000, -100_000)),
    "huge.tiff": lambda: _tiff(100_000, 100_000),
    "loop.tiff": lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "zip.png": lambda: _png(20, 20) + _zip(),
    "html.png": lambda: _png(20, 20) + b"<html><script>alert(1)</script>",
    "zip.jpg": lambda: _picture("JPEG") + _zip(),
    "comment.jpg": lambda: _picture("JPEG", comment=b"<script>alert(1)</script>"),
    "script.gif": lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)//",
    "zip.gif": lambda: _picture("GIF") + _zip(),
    "zip.tiff": lambda: _picture("TIFF") + _zip(),
    "zip.mp4": lambda: _clip("mp4", "mpeg4") + _zip(),
    "html.webm": lambda: _clip("webm", "libvpx") + b"<html>",
    "sound.mov": _sound,
    "many.mp4": lambda: _clip("mp4", "mpeg4", frames=101, size=(16, 16)),
    "long.mp4": lambda: _clip("mp4", "mpeg4", frames=3, rate=Fraction(1, 100)),
    "large.mp4": lambda: _clip("mp4", "mpeg4", frames=1, size=(4112, 2304)),
    "grows.webm": lambda: _clip("webm", "libvpx", frames=3, then=[(1200, 1200)]),
    "hundred.mp4": lambda: _clip("mp4", "mpeg4", frames=100, size=(160, 160)),
}


def _tiff(width, height):
    fields = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    fields += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 100)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + entries + bytes(4)
