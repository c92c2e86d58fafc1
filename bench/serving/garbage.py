"""Requests that deserve an error: what is sent, and the statuses that are right."""

from __future__ import annotations

import json
from random import Random
from typing import NamedTuple

from bench.serving.connection import head
from bench.serving.mix import CHAT, EMBEDDINGS

BAD = (400,)


class Garbage(NamedTuple):
    name: str
    content: bytes  # everything that goes over the wire
    statuses: tuple[int, ...] = BAD


def garbage(chance: Random, model: str) -> Garbage:
    """One of them, at random."""
    name = chance.choice(list(BODIES) + list(RAW))
    if name in RAW:
        return Garbage(name, *RAW[name])
    path, body, *statuses = BODIES[name]
    body = {"model": model, **body} if isinstance(body, dict) else body
    content = json.dumps(body).encode() if not isinstance(body, bytes) else body
    return Garbage(name, head("POST", path, len(content)) + content, *statuses)


def _picture(url: str) -> dict:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}], "mode": "gen"}


_SVG = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="
_CUT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9AAAAFUlEQVR42mNk"

# name -> path, body, statuses
BODIES: dict[str, tuple] = {
    "no json": (EMBEDDINGS, b'{"model": "tiny", "input": "a'),
    "deep json": (EMBEDDINGS, b"[" * 20_000 + b"]" * 20_000),
    "a list": (EMBEDDINGS, b"[1, 2, 3]"),
    "no input": (EMBEDDINGS, {}),
    "empty input": (EMBEDDINGS, {"input": ""}),
    "input of a wrong type": (EMBEDDINGS, {"input": {"text": 1}}),
    "tokens that are none": (EMBEDDINGS, {"input": [1, -5, 1 << 40]}),
    "unknown mode": (EMBEDDINGS, {"input": "a", "mode": "best"}),
    "dimensions": (EMBEDDINGS, {"input": "a", "dimensions": 7}),
    "n of nobody": (EMBEDDINGS, {"input": "a", "n": -1}),
    "temperature is not a number": (EMBEDDINGS, b'{"model": "tiny", "input": "a", "temperature": NaN}'),
    "lone surrogate": (EMBEDDINGS, b'{"model": "tiny", "input": "\\ud800"}'),
    "another model": (EMBEDDINGS, {"model": "gpt-9", "input": "a"}, (404,)),
    "picture cut short": (EMBEDDINGS, _picture(_CUT)),
    "svg": (EMBEDDINGS, _picture(_SVG)),
    "picture of text": (EMBEDDINGS, _picture("data:image/png;base64,aGVsbG8gd29ybGQ=")),
    "broken base64": (EMBEDDINGS, _picture("data:image/png;base64,@@@@")),
    "file": (EMBEDDINGS, _picture("file:///etc/passwd")),
    "address within": (EMBEDDINGS, _picture("http://127.0.0.1:1/a.png")),
    "two turns of the user": (EMBEDDINGS, {"messages": [{"role": "user", "content": "a"}] * 2}),
    "chat without messages": (CHAT, {"stream": True}),
    "chat in disc": (CHAT, {"messages": [{"role": "user", "content": "a"}], "mode": "disc"}),
    "chat with a bad picture": (CHAT, {**_picture(_CUT), "stream": True}),
}  # fmt: skip
RAW: dict[str, tuple] = {
    "no http": (b"\x16\x03\x01\x00\xa5 hello\r\n\r\n", BAD),
    "another path": (head("POST", "/v1/../../etc/passwd", 0), (404,)),
    "another method": (head("DELETE", EMBEDDINGS, 0), (405,)),
}
