"""Which addresses the server may open for a request: public ones, written plainly.

A name is resolved here once, every address it has must be public, and the connection goes to the
very address that was looked at. A name that points elsewhere a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from umer1.serving.media.refusals import download_failed, unsupported, url_refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> addresses as text

DEFAULT_PORTS = {"http": 80, "https": 443}
_MOST_CHARACTERS = 4096
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# public by the registries but not for us: protocol assignments, 6to4 relays, Azure's host service
_CLOSED_IPV4 = [
    ipaddress.IPv4Network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "240.0.0.0/4")
]
# all that is given out lies in the first; Teredo and its neighbours, 6to4 (both hold IPv4
# addresses of their own) and documentation do not lead to a public host
_OPEN_IPV6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_IPV6 = [
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]


@dataclass(frozen=True, slots=True)
class Target:
    """One hop: `url` as written, and the addresses that were found public, in the order to try."""

    url: SplitResult
    host: str
    port: int
    addresses: tuple[str, ...]


async def public_target(
    url: str, *, ports: Sequence[int], domains: Sequence[str], resolve: Resolver
) -> Target:
    """The addresses that may be connected to for `url`.

    Args:
        ports: those that may be asked.
        domains: if any, the host must be one of them or lie below one.

    Raises MediaRefused.
    """
    parts = _split(url)
    host = _plain_host(parts)
    try:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except ValueError:
        raise url_refused("an address with a port that is no number") from None
    if port not in ports:
        raise url_refused(f"an address with port {port}, wants one of {list(ports)}")
    if domains and not any(host == domain or host.endswith(f".{domain}") for domain in domains):
        raise url_refused(f"the host {host!r}, which is not among the domains allowed here")
    try:
        found = [str(ipaddress.ip_address(host))]
    except ValueError:
        found = await _resolved(host, port, resolve)
    if not all(is_public(address) for address in found):
        # which address it is stays here: the asker may be looking for what is inside
        raise url_refused("an address that does not lead to the public internet")
    return Target(parts, host, port, tuple(found))


def is_public(address: str) -> bool:
    """Whether a textual IPv4 or IPv6 address belongs to a host on the public internet."""
    try:
        found: Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        closed = any(found in network for network in _CLOSED_IPV4)
        return found.is_global and not found.is_multicast and not closed
    # a zone (fe80::1%eth0) is of local use by definition; an IPv4 address inside an IPv6 one
    # (mapped, translated, 6to4, Teredo) lies outside of what is open
    closed = any(found in network for network in _CLOSED_IPV6) or found.scope_id is not None
    inner = int(found) >> 32 & 0xFFFFFFFF
    if inner in (0x00005EFE, 0x02005EFE):  # ISATAP: the last 32 bits are an IPv4 address
        return False
    return found in _OPEN_IPV6 and found.is_global and not closed


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """All addresses of a name by the machine's own resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _split(url: str) -> SplitResult:
    if len(url) > _MOST_CHARACTERS:
        raise url_refused(f"an address of {len(url)} characters, wants at most {_MOST_CHARACTERS}")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise url_refused("an address with spaces, backslashes or letters that are not ASCII")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise url_refused("an address that is not well formed") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise unsupported(f"an address of the scheme {parts.scheme[:20]!r}, wants http or https")
    if "@" in parts.netloc:
        raise url_refused("an address with a user name or password in it")
    return parts


def _plain_host(parts: SplitResult) -> str:
    """The host in lower case: a name, a.b.c.d or an IPv6 address, and nothing that only some
    programs take for an address (2130706433, 0x7f.1, 0177.0.0.1)."""
    host = (parts.hostname or "").removesuffix(".")
    if ":" in host:
        return host
    labels = host.split(".")
    if not host or len(host) > 253 or not all(_NAME.fullmatch(label) for label in labels):
        raise url_refused("an address without a well-formed host")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise url_refused("a host in numbers that is not written as a.b.c.d") from None
    return host


async def _resolved(host: str, port: int, resolve: Resolver) -> list[str]:
    try:
        found = list(await resolve(host, port))
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise download_failed(f"the host {host!r} has no address")
    return found
