"""Which addresses count as public, and what becomes of an address before anything is connected."""

import asyncio
import socket

import pytest

from umer1.serving.media.public_addresses import is_public, public_target, system_resolver
from umer1.serving.media.refusals import MediaRefused

PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::1"]
INSIDE = """
    0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1
    2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1
    fe80::1%eth0 2606:4700::1111%1 fec0::1 ff02::1 2606:4700::5efe:127.0.0.1
""".split()


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", INSIDE)
def test_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f.1", "2130706433", "1.2.3.4/8"])
def test_what_is_no_address_is_not_public(text):
    assert not is_public(text)


def target(url, addresses=("8.8.8.8",), ports=(80, 443), domains=()):
    asked = []

    async def resolve(host, port):
        asked.append((host, port))
        return list(addresses)

    found = asyncio.run(public_target(url, ports=ports, domains=domains, resolve=resolve))
    return found, asked


def test_name_is_resolved_once_and_every_address_is_kept():
    found, asked = target("https://Pictures.Example./a?b#c", ["8.8.8.8", "2606:4700::1111"])
    assert asked == [("pictures.example", 443)]
    assert (found.host, found.port) == ("pictures.example", 443)
    assert found.addresses == ("8.8.8.8", "2606:4700::1111")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_address_inside_closes_the_name(place):
    addresses = ["8.8.8.8", "8.8.4.4", "2606:4700::1111"]
    addresses[place] = "10.0.0.1"
    with pytest.raises(MediaRefused, match="does not lead to the public internet") as refusal:
        target("http://name.example/", addresses)
    # an asker does not learn what a name inside stands for
    assert "10.0.0.1" not in str(refusal.value)


def test_address_in_a_url_is_not_resolved():
    found, asked = target("http://8.8.8.8/x.png")
    assert found.addresses == ("8.8.8.8",) and asked == []
    found, asked = target("http://[2606:4700::1111]/x.png")
    assert found.addresses == ("2606:4700::1111",) and asked == []


@pytest.mark.parametrize("host", ["example.org", "a.example.org", "A.B.EXAMPLE.ORG"])
def test_domain_and_what_is_below_it(host):
    assert target(f"http://{host}/", domains=["example.org"])[0].host == host.lower()


@pytest.mark.parametrize(
    "host", ["example.com", "badexample.org", "example.org.evil.com", "8.8.8.8"]
)
def test_other_domains(host):
    with pytest.raises(MediaRefused, match="not among the domains"):
        target(f"http://{host}/", domains=["example.org"])


def test_ports_that_are_allowed():
    assert target("http://a.example:8080/", ports=[8080])[0].port == 8080
    with pytest.raises(MediaRefused, match="port 80, wants one of"):
        target("http://a.example/", ports=[8080])


@pytest.mark.parametrize("error", [socket.gaierror(-2, "x"), UnicodeError("label too long")])
def test_name_without_address(error):
    async def resolve(host, port):
        raise error

    with pytest.raises(MediaRefused, match="has no address") as refusal:
        asyncio.run(public_target("http://a.example/", ports=[80], domains=[], resolve=resolve))
    assert refusal.value.code == "media_download_failed"


def test_the_machines_own_names_do_not_pass():
    addresses = asyncio.run(system_resolver("localhost", 80))
    assert addresses and not any(map(is_public, addresses))
