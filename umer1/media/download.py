"""A file from an http or https address, within limits on size, time and redirects."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request

STALL_SECONDS, TOTAL_SECONDS = 10.0, 120.0  # of silence on a connection; for a whole download
MAX_REDIRECTS = 5
_URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"  # what stays as it is in an address


class DownloadError(Exception):
    """Why a file did not arrive; the message has no address in it."""


def download(url: str, limit: int) -> bytes:
    """The bytes at `url`, at most `limit` of them. Raises DownloadError."""
    watch = _Watch(TOTAL_SECONDS)
    opener = urllib.request.build_opener(_Redirects, _Http(watch), _Https(watch))
    chunks, size = [], 0
    try:
        quoted = urllib.parse.quote(url, safe=_URL_CHARACTERS)
        request = urllib.request.Request(quoted, headers={"User-Agent": "umer1"})
        with watch, opener.open(request, timeout=STALL_SECONDS) as response:
            # read1 returns what has arrived, so the limit is met without waiting for more
            while chunk := response.read1(1 << 16):
                size += len(chunk)
                if size > limit:
                    raise DownloadError(f"is larger than {limit / (1 << 20):g} MiB")
                chunks.append(chunk)
            if response.length and not watch.expired:
                raise DownloadError(f"ended {response.length} bytes early")
    except http.client.HTTPException as error:
        if not watch.expired:
            raise DownloadError(f"broken HTTP answer ({type(error).__name__})") from None
    except (OSError, ValueError) as error:
        if not watch.expired:
            raise DownloadError(str(getattr(error, "reason", "") or error)) from None
    if watch.expired:
        raise DownloadError(f"took longer than {TOTAL_SECONDS:g} s")
    return b"".join(chunks)


class _Watch:
    """Ends all connections of a download when its time is over, even those that still drip."""

    def __init__(self, seconds: float):
        self.expired = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def add(self, connection: http.client.HTTPConnection) -> None:
        self._sockets.append(connection.sock)
        if self.expired:
            self._expire()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        for connected in self._sockets:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed already
                pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(self, request, response, code, message, headers, url):
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise urllib.error.URLError(f"redirected to {url[:120]}, wants http or https")
        return super().redirect_request(request, response, code, message, headers, url)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self._watch = watch

    def http_open(self, request):
        return self.do_open(_watched(http.client.HTTPConnection, self._watch), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch):
        super().__init__()
        self._watch = watch

    def https_open(self, request):
        return self.do_open(_watched(http.client.HTTPSConnection, self._watch), request)


def _watched(kind: type, watch: _Watch) -> type:
    class Connection(kind):
        def connect(self) -> None:
            super().connect()
            watch.add(self)

    return Connection
