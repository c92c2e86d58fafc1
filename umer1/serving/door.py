"""What is checked before a request's body is read: host, shutting down, API key, kind of content."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterable

from umer1.serving.body_limits import drop_body
from umer1.serving.errors import ApiError, send_error, shutting_down

# with keys, these want one; the page's own files and the health checks are open
GUARDED = ("/v1/", "/metrics")


class Door:
    """ASGI middleware. closing: whether the server shuts down."""

    def __init__(self, app, *, api_keys: Iterable[str], closing: Callable[[], bool]):
        self.app, self.closing = app, closing
        self._digests = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._check(scope)
        except ApiError as error:
            await drop_body(scope, receive)
            return await send_error(error, send)
        await self.app(scope, receive, send)

    def _check(self, scope) -> None:
        headers = dict(scope["headers"])
        guarded = scope["path"].startswith(GUARDED)
        if guarded and self._digests:
            self._check_key(headers.get(b"authorization", b""))
        if not self._digests and _is_loopback((scope.get("server") or ("",))[0]):
            _check_host(headers.get(b"host", b"").decode("latin-1"))
        if scope["method"] != "POST":
            return
        if self.closing():
            raise shutting_down()
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            shown = kind.decode("latin-1")[:80] or "none"
            raise ApiError(
                415,
                f"Content-Type: wants application/json, got {shown}",
                code="unsupported_content_type",
            )

    def _check_key(self, header: bytes) -> None:
        scheme, _, key = header.partition(b" ")
        given = _digest(key.strip())
        # every key is compared, each in constant time: the answer's time tells nothing
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != b"bearer" or not any(known):
            raise ApiError(
                401,
                "wants an API key of this server: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _check_host(header: str) -> None:
    """A page elsewhere whose name is made to lead to this machine must not read a server that asks
    for no key: browsers say by which name they came."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    name = name.strip("[]").lower()
    if not (name == "localhost" or name.endswith(".localhost") or _is_loopback(name)):
        raise ApiError(
            421,
            f"Host: a server of this machine that has no API keys wants localhost or 127.0.0.1, "
            f"got {header[:80]!r}",
            code="host_not_allowed",
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
