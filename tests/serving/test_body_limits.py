"""Bodies as they arrive, in pieces, and the outline of their JSON."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umer1.serving.body_limits import MOST_DEPTH, MOST_VALUES, BodyLimits, check_json
from umer1.serving.errors import ApiError

JSON = ((b"content-type", b"application/json"),)


def ask(limits, *chunks, headers=JSON, leaves=False):
    """(status, error or None) of one request whose body comes in these pieces."""
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": leaves or place < len(chunks) - 1}
        for place, chunk in enumerate(chunks)
    ]
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(limits({"type": "http", "headers": headers}, receive, send))
    if not sent:
        return None, None
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body)["error"] if body else None


class App:
    """What lies behind: keeps the bodies it was given."""

    def __init__(self):
        self.bodies = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def limits():
    return BodyLimits(App(), most_bytes=100)


def test_body_is_passed_on_in_one_piece(limits):
    assert ask(limits, b'{"a', b'":', b" 1}") == (200, None)
    assert limits.app.bodies == [b'{"a": 1}'] and limits.held == 0


def test_bytes_are_counted_whatever_the_header_says(limits):
    for headers in (JSON, (*JSON, (b"content-length", b"5")), (*JSON, (b"content-length", b"x"))):
        status, error = ask(limits, b"[" + b" " * 60, b" " * 60, headers=headers)
        assert (status, error["code"]) == (413, "body_too_large")
    assert not limits.app.bodies and limits.held == 0


def test_exactly_the_limit(limits):
    assert ask(limits, b"[" + b" " * 98 + b"]")[0] == 200
    assert ask(limits, b"[" + b" " * 99 + b"]")[0] == 413


def test_announced_length_is_refused_before_reading(limits):
    headers = (*JSON, (b"content-length", b"9" * 30), (b"expect", b"100-continue"))
    status, error = ask(limits, headers=headers)
    assert (status, error["code"]) == (413, "body_too_large")


def test_client_that_leaves_gets_no_answer(limits):
    assert ask(limits, b"[1,", leaves=True) == (None, None)
    assert not limits.app.bodies and limits.held == 0


def test_all_bodies_together(limits):
    limits.held = 8 * 100 - 10  # of other requests
    status, error = ask(limits, b"[" + b" " * 20 + b"]")
    assert (status, error["code"]) == (429, "too_many_bytes")
    assert limits.held == 790
    assert ask(limits, b"[      ]")[0] == 200


def test_other_content_is_not_looked_at_as_json(limits):
    assert ask(limits, b"[[[", headers=())[0] == 200


def refused(body):
    with pytest.raises(ApiError) as error:
        check_json(body)
    assert (error.value.status, error.value.code) == (400, "bad_json")
    return str(error.value)


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth(opening, closing):
    whole = lambda depth: opening * depth + b"1" + closing * depth
    check_json(whole(MOST_DEPTH))
    assert "32 deep" in refused(whole(MOST_DEPTH + 1))


def test_brackets_in_strings_are_letters():
    text = '[{"' * 100 + '\\"[[[' * 100 + "\\\\"
    check_json(json.dumps({"a": text, "b": [text] * 3}).encode())


def test_string_that_ends_in_a_backslash_hides_nothing():
    assert "32 deep" in refused(b'{"a": "\\\\", "b": ' + b"[" * 40 + b"]" * 40 + b"}")


@pytest.mark.parametrize("unit", [b"1,", b'"",', b"[],", b"{},"])
def test_values(unit):
    assert "more than 1000000 values" in refused(b"[" + unit * (MOST_VALUES + 1) + b"1]")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number(word):
    assert "no number in JSON" in refused(f'{{"a": {word}}}'.encode())
    check_json(f'{{"a": "{word}"}}'.encode())


def test_encodings():
    check_json('{"ä": "日本 🚲"}'.encode())
    for encoding in ("utf-16", "utf-16-le", "utf-32", "latin-1"):
        assert "not UTF-8" in refused('{"ä": "ß"}'.encode(encoding))


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(value=_values, ascii_only=st.booleans())
def test_json_of_modest_depth_passes(value, ascii_only):
    """Whatever the strings hold: quotes, backslashes, brackets."""
    check_json(json.dumps([value], ensure_ascii=ascii_only).encode())
