"""Downloads, against a server on the loopback interface."""

import http.server
import io
import threading
import time

import pytest
from PIL import Image

from umer1.media import MediaError, download, load_image


def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, body, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.close_connection = True
        name, _, argument = self.path.lstrip("/").partition("/")
        if name == "picture":
            self.send(picture())
        elif name == "text":
            self.send(b"hello")
        elif name == "hops":
            left = int(argument)
            self.redirect(f"/hops/{left - 1}" if left else "/picture")
        elif name == "file":
            self.redirect("file:///etc/hostname")
        elif name == "ftp":
            self.redirect("ftp://127.0.0.1/a.png")
        elif name == "short":
            self.send(picture()[:50], length=5000)
        elif name == "endless":
            # no length given: the reader has to stop by itself
            self.send_response(200)
            self.end_headers()
            self.drip(b"x" * 65536, 0.0)
        elif name == "slow":
            self.send_response(200)
            self.end_headers()
            self.drip(b"x", 0.05)
        elif name == "slow-head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            self.drip(b"x", 0.05)
        elif name == "silent":
            time.sleep(2)
        elif name == "nonsense":
            self.wfile.write(b"\0\1\2\r\n\r\n")
        else:
            self.send_error(404)

    def drip(self, chunk, pause):
        try:
            for _ in range(400):
                self.wfile.write(chunk)
                time.sleep(pause)
        except OSError:  # the reader has hung up
            pass


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_download(address):
    image = load_image(f"{address}/picture")
    assert image.size == (30, 20)
    assert image.getpixel((0, 0)) == (1, 2, 3)


def test_addresses_are_quoted(address):
    assert load_image(f"{address}/picture/ein schönes Bild.png").size == (30, 20)


def test_some_redirects_are_followed(address):
    assert load_image(f"{address}/hops/3").size == (30, 20)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "Not Found"),
        ("text", "not an image"),
        ("hops/20", "redirect"),
        ("file", "redirected to file:///etc/hostname, wants http or https|not allowed"),
        ("ftp", "redirected to ftp://127.0.0.1/a.png, wants http or https"),
        ("short", "ended 4950 bytes early"),
        ("nonsense", "broken HTTP answer"),
    ],
)
def test_bad_downloads(address, path, message):
    with pytest.raises(MediaError, match=f"^item 3, field 'image': .*({message})"):
        load_image(f"{address}/{path}", "item 3, field 'image'")


def test_size_limit(address, monkeypatch):
    monkeypatch.setattr("umer1.media.images.IMAGE_BYTES", 1 << 20)
    with pytest.raises(MediaError, match="/endless: is larger than 1 MiB"):
        load_image(f"{address}/endless")


@pytest.mark.parametrize("path", ["slow", "slow-head"])
def test_a_slow_drip_meets_the_deadline(address, monkeypatch, path):
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.4)
    start = time.monotonic()
    with pytest.raises(MediaError, match=rf"/{path}: took longer than 0\.4 s"):
        load_image(f"{address}/{path}")
    assert time.monotonic() - start < 3


def test_silence_meets_the_deadline(address, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    with pytest.raises(MediaError, match="cannot download .*/silent: .*timed out"):
        load_image(f"{address}/silent")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.png", "http:///a.png", "https://", "http://[::1/a.png"]
)
def test_unreachable(url):
    with pytest.raises(MediaError, match="^image: cannot download "):
        load_image(url)
