"""A medium from an http or https address that a request names."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import cached_property
from urllib.parse import urljoin, urlunsplit

import httpx

from umer1.serving.media.public_addresses import Resolver, Target, public_target, system_resolver
from umer1.serving.media.refusals import download_failed, too_large, unsupported, url_refused

_REDIRECTS, _MOST_REDIRECTS = (301, 302, 303, 307, 308), 4
_CONNECT_SECONDS, _STALL_SECONDS = 5.0, 10.0
# what a server may call a picture or a clip besides image/… and video/…
_NEUTRAL_TYPES = ("", "application/octet-stream", "binary/octet-stream")
_HEADERS = {"User-Agent": "umer1", "Accept": "image/*, video/*", "Accept-Encoding": "identity"}


class MediaUrls:
    """Opens public addresses, each hop checked anew.

    Args:
        ports: those that may be asked.
        domains: the hosts allowed, with all below them; empty: every public host.
        seconds: for one medium, redirects and all.
        resolve, transport: other ones in tests.
    """

    def __init__(
        self,
        *,
        ports: Sequence[int] = (80, 443),
        domains: Sequence[str] = (),
        seconds: float = 30.0,
        resolve: Resolver = system_resolver,
        transport: httpx.AsyncBaseTransport | None = None,
    ):
        self.ports, self.seconds = tuple(ports), seconds
        self.domains = tuple(domain.lower().strip(".") for domain in domains)
        self._resolve, self._transport = resolve, transport

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # takes 20 ms

    async def read(self, url: str, kind: str, most_bytes: int) -> bytes:
        """The file at `url`, at most `most_bytes` of it. Raises MediaRefused."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._read(url, kind, most_bytes)
        except TimeoutError:
            raise download_failed(f"took longer than {self.seconds:g} s to download") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise download_failed(f"cannot be downloaded ({type(error).__name__})") from None

    async def _read(self, url: str, kind: str, most_bytes: int) -> bytes:
        # an own client each time: no cookie and no connection outlives its request. Proxies of
        # the environment would look names up by themselves
        timeout = httpx.Timeout(_STALL_SECONDS, connect=_CONNECT_SECONDS)
        async with httpx.AsyncClient(
            transport=self._transport,
            verify=self._certificates,
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
        ) as client:
            for _ in range(_MOST_REDIRECTS + 1):
                target = await public_target(
                    url, ports=self.ports, domains=self.domains, resolve=self._resolve
                )
                response = await _ask(client, target)
                try:
                    if response.status_code not in _REDIRECTS:
                        return await _body(response, kind, most_bytes)
                    url = _redirected(url, target, response)
                finally:
                    await response.aclose()
        raise url_refused(f"an address with more than {_MOST_REDIRECTS} redirects")


async def _ask(client: httpx.AsyncClient, target: Target) -> httpx.Response:
    """The answer of the first address that takes the connection, its body not yet read."""
    for address in target.addresses:
        host = f"[{address}]" if ":" in address else address
        # the address takes the name's place, so nobody looks the name up a second time; the
        # server and its certificate are still asked for by name
        url = urlunsplit(target.url._replace(netloc=f"{host}:{target.port}", fragment=""))
        headers = {**_HEADERS, "Host": target.url.netloc}
        request = client.build_request(
            "GET", url, headers=headers, extensions={"sni_hostname": target.host}
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
    raise failure


def _redirected(url: str, target: Target, response: httpx.Response) -> str:
    there = response.headers.get("location", "")
    try:
        joined = urljoin(url, there)
    except ValueError:
        there = ""
    if not there:
        raise download_failed("redirected to nowhere")
    if target.url.scheme == "https" and not joined.lower().startswith("https:"):
        raise url_refused("redirected from https to something else")
    return joined


async def _body(response: httpx.Response, kind: str, most_bytes: int) -> bytes:
    if response.status_code != 200:
        raise download_failed(f"answered with status {response.status_code}")
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _NEUTRAL_TYPES and not media_type.startswith(f"{kind}/"):
        raise unsupported(f"an address that gives {media_type[:60]!r}, wants {kind} data")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise unsupported("an address that gives packed data (Content-Encoding)")
    announced = response.headers.get("content-length", "")
    chunks, size = [], int(announced) if announced.isdecimal() else 0
    if size <= most_bytes:
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > most_bytes:
                break
            chunks.append(chunk)
    if size > most_bytes:
        raise too_large(f"more than {most_bytes} bytes of data")
    return b"".join(chunks)
