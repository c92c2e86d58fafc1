"""Sources of media that are no data URI, against the real server: paths, schemes, and addresses
that lead inside. Each is (source, code, part of the message); the status is 400."""

import pytest

PICTURE = "data:image/png;base64,"
# the server opens no addresses, as by default
CLOSED = {
    "path": ("/etc/passwd", "media_unsupported", "no data URI"),
    "relative path": ("../../etc/passwd", "media_unsupported", "no data URI"),
    "file address": ("file:///etc/passwd", "media_unsupported", "no data URI"),
    "file address on a host": ("file://localhost/etc/passwd", "media_unsupported", "no data URI"),
    "share": ("\\\\server\\share\\x.png", "media_unsupported", "no data URI"),
    "device": ("/dev/zero", "media_unsupported", "no data URI"),
    "empty": ("", "media_unsupported", "no data URI"),
    "ftp": ("ftp://public.example/x.png", "media_unsupported", "no data URI"),
    "javascript": ("javascript:alert(1)", "media_unsupported", "no data URI"),
    "address": ("http://public.example/ok.png", "media_url_refused", "opens no addresses"),
    "number": (5, "media_unsupported", "type int"),
    "object": ({"path": "/etc/passwd"}, "media_unsupported", "type dict"),
    "list": (["a"], "media_unsupported", "type list"),
    "no comma": ("data:image/png;base64", "media_unsupported", "does not begin as it should"),
    "no base64": ("data:image/png,abc", "media_unsupported", "parameters []"),
    "parameters": ("data:image/png;charset=utf-8;base64,aa==", "media_unsupported", "parameters"),
    "long header": (f"data:image/png{';a' * 99};base64,", "media_unsupported", "does not begin"),
    "broken base64": (PICTURE + "aGVs*G8=", "media_damaged", "broken base64"),
    "base64 in lines": (PICTURE + "aGVs\nbG8=", "media_damaged", "broken base64"),
    "base64 of addresses": (PICTURE + "_-__", "media_damaged", "broken base64"),
    "base64 beyond ASCII": (PICTURE + "ééé=", "media_damaged", "broken base64"),
    "base64 without end": (PICTURE + "aGVsbG8", "media_damaged", "broken base64"),
}
INSIDE = "does not lead to the public internet"
# the server opens addresses
OPEN = {
    "loopback": ("http://127.0.0.1/x.png", "media_url_refused", INSIDE),
    "loopback, decimal": ("http://2130706433/x.png", "media_url_refused", "not written as a.b.c.d"),
    "loopback, hexadecimal": ("http://0x7f.0.0.1/", "media_url_refused", "not written as a.b.c.d"),
    "loopback, octal": ("http://0177.0.0.1/", "media_url_refused", "not written as a.b.c.d"),
    "loopback, short": ("http://127.1/x.png", "media_url_refused", "not written as a.b.c.d"),
    "loopback, with a dot": ("http://127.0.0.1./x.png", "media_url_refused", INSIDE),
    "loopback, circled": ("http://①②⑦.0.0.1/", "media_url_refused", "not ASCII"),
    "everything": ("http://0.0.0.0/x.png", "media_url_refused", INSIDE),
    "private": ("http://192.168.1.1/x.png", "media_url_refused", INSIDE),
    "shared": ("http://100.64.0.1/x.png", "media_url_refused", INSIDE),
    "metadata": ("http://169.254.169.254/latest/meta-data", "media_url_refused", INSIDE),
    "host service": ("http://168.63.129.16/", "media_url_refused", INSIDE),
    "IPv6 loopback": ("http://[::1]/x.png", "media_url_refused", INSIDE),
    "IPv6, mapped": ("http://[::ffff:127.0.0.1]/", "media_url_refused", INSIDE),
    "IPv6, mapped in hex": ("http://[::ffff:7f00:1]/", "media_url_refused", INSIDE),
    "IPv6, translated": ("http://[64:ff9b::7f00:1]/", "media_url_refused", INSIDE),
    "IPv6, 6to4": ("http://[2002:7f00:1::]/", "media_url_refused", INSIDE),
    "IPv6, link": ("http://[fe80::1%25eth0]/", "media_url_refused", INSIDE),
    "IPv6, broken": ("http://[::1/x.png", "media_url_refused", "not well formed"),
    "name inside": ("http://inside.example/x.png", "media_url_refused", INSIDE),
    "name of the metadata": ("http://metadata.example/", "media_url_refused", INSIDE),
    "name of both": ("http://both.example/ok.png", "media_url_refused", INSIDE),
    "name in IPv6": ("http://six.example/x.png", "media_url_refused", INSIDE),
    "name, mapped": ("http://mapped.example/x.png", "media_url_refused", INSIDE),
    "name, translated": ("http://translated.example/", "media_url_refused", INSIDE),
    "name of nothing": ("http://nothing.example/", "media_download_failed", "has no address"),
    "own name": ("http://localhost/x.png", "media_download_failed", "has no address"),
    "other port": ("http://public.example:8080/ok.png", "media_url_refused", "port 8080"),
    "port that is none": ("http://public.example:99999/", "media_url_refused", "no number"),
    "password": ("http://me:secret@public.example/ok.png", "media_url_refused", "user name"),
    "host before the at": ("http://public.example@127.0.0.1/", "media_url_refused", "user name"),
    "backslash": ("http://public.example\\@127.0.0.1/", "media_url_refused", "backslashes"),
    "line break": ("http://public.example/\r\nHost: x", "media_url_refused", "spaces"),
    "no host": ("http:///x.png", "media_url_refused", "without a well-formed host"),
    "host of dots": ("http://..../x.png", "media_url_refused", "without a well-formed host"),
    "long": (f"http://public.example/{'a' * 5000}", "media_url_refused", "characters"),
    "other scheme": ("gopher://public.example/x", "media_unsupported", "no data URI"),
    "redirected inside": ("http://public.example/inside", "media_url_refused", INSIDE),
    "redirected to metadata": ("http://public.example/metadata", "media_url_refused", INSIDE),
    "redirected to itself": ("http://public.example/loopback", "media_url_refused", INSIDE),
    "redirected to a file": ("http://public.example/file", "media_unsupported", "scheme 'file'"),
    "redirected to a port": ("http://public.example/port", "media_url_refused", "port 22"),
    "name that turns": ("http://turning.example/turn", "media_url_refused", INSIDE),
    "redirected for ever": ("http://public.example/loop", "media_url_refused", "4 redirects"),
    "redirected nowhere": ("http://public.example/nowhere", "media_download_failed", "nowhere"),
    "redirected to plain": ("https://public.example/down", "media_url_refused", "from https"),
    "missing": ("http://public.example/missing", "media_download_failed", "status 404"),
    "gives a page": ("http://public.example/html", "media_unsupported", "'text/html'"),
    "gives svg": ("http://public.example/svg", "media_unsupported", "an SVG drawing"),
    "gives packed data": ("http://public.example/packed", "media_unsupported", "packed data"),
    "says it is large": ("http://public.example/long", "media_too_large", "more than"),
    "never ends": ("http://public.example/endless", "media_too_large", "more than"),
    "stalls": ("http://public.example/stalls", "media_download_failed", "took longer"),
}


def message(source, kind="image"):
    content = [{"type": kind, kind: source}]
    return {"json": {"mode": "disc", "messages": [{"role": "user", "content": content}]}}


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("name", CLOSED)
def test_source_is_refused(server, name, kind):
    source, code, fragment = CLOSED[name]
    if kind == "video" and isinstance(source, list):
        fragment = "no data URI"  # frames, each a source of its own
    if isinstance(source, str):
        source = source.replace("image/png", {"image": "image/png", "video": "video/mp4"}[kind])
    server.check_refused(message(source, kind), 400, code, fragment)


@pytest.mark.parametrize("name", OPEN)
def test_address_is_refused(server, internet, name):
    source, code, fragment = OPEN[name]
    internet.connected.clear()
    server.check_refused(message(source), 400, code, fragment, urls=True)
    # whatever was asked: nothing but the public address was connected to
    assert set(internet.connected) <= {"93.184.215.14"}
    if fragment == INSIDE and "public.example" not in source and "turning" not in source:
        assert internet.connected == []


def test_public_address_is_opened_by_the_address_that_was_checked(server, internet):
    internet.connected.clear()
    answer = server.ask(message("http://public.example/ok.png"), urls=True)
    assert answer.status_code == 200, answer.text
    assert internet.connected == ["93.184.215.14"]
