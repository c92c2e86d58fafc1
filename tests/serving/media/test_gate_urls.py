"""Downloads of media: where the connection goes and by what name it asks."""

import asyncio
import http.server
import threading

import httpx
import pytest

from umer1.serving.media import public_addresses
from umer1.serving.media import urls as media_urls
from umer1.serving.media.refusals import MediaRefused
from umer1.serving.media.urls import MediaUrls

PNG = b"\x89PNG\r\n\x1a\n"


def read(handler, url="http://a.example/x", addresses=("8.8.8.8",), most=1000, **options):
    """Bytes, and the requests as (address, Host, name of the certificate)."""
    asked = []

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            name = request.extensions["sni_hostname"]
            asked.append((request.url.host, request.headers["host"], name))
            return handler(request)

    async def resolve(host, port):
        return addresses

    urls = MediaUrls(resolve=resolve, transport=Transport(), **options)
    return asyncio.run(urls.read(url, "image", most)), asked


class Stream(httpx.AsyncByteStream):
    def __init__(self, *chunks):
        self.chunks, self.given = chunks, 0

    async def __aiter__(self):
        for chunk in self.chunks:
            self.given += 1
            yield chunk


def answer(*chunks, status=200, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, stream=Stream(*chunks))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connects_to_the_address_and_asks_by_the_name(scheme):
    data, asked = read(lambda request: answer(PNG, b"x"), f"{scheme}://A.example/x?y=1#z")
    assert data == PNG + b"x"
    assert asked == [("8.8.8.8", "A.example", "a.example")]


def test_next_address_after_one_that_takes_no_connection():
    def handler(request):
        if request.url.host == "8.8.8.8":
            raise httpx.ConnectError("no")
        return answer(PNG)

    data, asked = read(handler, addresses=("8.8.8.8", "2606:4700::1111"))
    assert data == PNG and [address for address, *_ in asked] == ["8.8.8.8", "2606:4700::1111"]


def test_no_address_takes_a_connection():
    def handler(request):
        raise httpx.ConnectTimeout("no")

    with pytest.raises(MediaRefused, match="cannot be downloaded") as refusal:
        read(handler)
    assert refusal.value.code == "media_download_failed"


def test_redirects_are_followed_within_the_rules():
    def handler(request):
        if request.url.path == "/x":
            return answer(status=307, location="https://a.example/y")
        return answer(PNG, content_type="image/png; charset=binary")

    data, asked = read(handler)
    assert data == PNG and len(asked) == 2


def test_large_body_is_not_read_to_its_end():
    stream = Stream(*[b"a" * 600] * 50)
    with pytest.raises(MediaRefused, match="more than 1000 bytes"):
        read(lambda request: httpx.Response(200, stream=stream))
    assert stream.given == 2


def test_nothing_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    made = []
    client = httpx.AsyncClient
    monkeypatch.setattr(
        media_urls.httpx, "AsyncClient", lambda **given: made.append(given) or client(**given)
    )
    read(lambda request: answer(PNG))
    assert made[0]["trust_env"] is False and made[0]["follow_redirects"] is False


@pytest.fixture
def here():
    """A real server at 127.0.0.1: (its port, what it was asked)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(PNG)))
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_over_a_real_connection(here, monkeypatch):
    """The machine's own address is let in for once: the name is never looked up by httpx."""
    port, asked = here
    monkeypatch.setattr(public_addresses, "is_public", lambda address: True)

    async def resolve(host, port):
        return ["127.0.0.1"]

    urls = MediaUrls(ports=[port], resolve=resolve)
    url = f"http://no-such-name.example:{port}/a%20b?c=d"
    assert asyncio.run(urls.read(url, "image", 100)) == PNG
    (path, headers) = asked[0]
    assert path == "/a%20b?c=d"
    assert headers["Host"] == f"no-such-name.example:{port}"
    assert headers["Accept-Encoding"] == "identity" and "Cookie" not in headers
