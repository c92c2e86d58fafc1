"""The same requests without a server: what every vector must be, and how long the engine alone takes."""

from __future__ import annotations

import base64
import json
import time
from typing import NamedTuple

import numpy as np
import torch

from bench.serving.clients import Answered
from bench.serving.mix import CHAT, MAX_TOKENS, Options, Part
from umer1 import Embedder

TRIAL = 200  # items by which the number of threads is chosen


class Vectors(NamedTuple):
    """Of one item: float32 [d], and [n, d]; None if not asked for. tokens: written."""

    disc: np.ndarray | None
    gen: np.ndarray | None
    tokens: int = 0


def compute(model: str, parts: list[Part], threads: list[int]) -> tuple[list[Vectors], dict]:
    """The vectors of all items, and how long the fastest way took: every kind of options in batches as full as the
    server's, with the number of threads that a trial finds faster."""
    trial = parts[:: max(1, len(parts) // TRIAL)]
    rates = {}
    for count in threads if len(threads) > 1 else []:
        torch.set_num_threads(count)
        embedder = Embedder.load(model, device="cpu")
        _all(embedder, trial[: len(trial) // 4])  # what is done once is not timed
        rates[count] = len(trial) / _all(embedder, trial)[1]
    best = max(rates, key=rates.get, default=threads[0])
    torch.set_num_threads(best)
    embedder = Embedder.load(model, device="cpu")
    _all(embedder, trial[: len(trial) // 4])
    used = time.process_time()
    vectors, seconds = _all(embedder, parts)
    used = time.process_time() - used
    told = {"threads": best, "seconds": seconds, "cpu_seconds": used}
    told["trial_items_per_second"] = rates
    return vectors, told


def answers(answered: Answered) -> list[Vectors]:
    """What the server's answer holds, item by item."""
    request, body = answered.request, answered.body
    if request.path == CHAT:
        found = _last_event(body) if body.startswith(b"data: ") else json.loads(body)["embedding"]
        disc = None if found["disc"] is None else _vector(found["disc"])
        return [Vectors(disc, _vector(found["gen"])[None])]
    data = [(entry, _vector(entry["embedding"])) for entry in json.loads(body)["data"]]
    result, place = [], 0
    for part in request.parts:
        rows = data[place : place + part.options.n]
        place += part.options.n
        if part.options.mode == "disc":
            result.append(Vectors(rows[0][1], None))
            continue
        disc = rows[0][0].get("disc")
        gen = np.stack([vector for _, vector in rows])
        result.append(Vectors(None if disc is None else _vector(disc), gen))
    if place != len(data):
        raise ValueError(f"{len(data)} vectors, {place} were asked for")
    return result


def difference(wanted: Vectors, got: Vectors) -> float:
    """Largest difference of any number; infinite if one is missing. 0 is equal in every bit."""
    worst = 0.0
    for one, other in ((wanted.disc, got.disc), (wanted.gen, got.gen)):
        if (one is None) != (other is None) or (one is not None and one.shape != other.shape):
            return float("inf")
        if one is not None and not np.array_equal(one, other):
            distance = float(np.abs(one - other).max())
            worst = max(worst, distance if distance > 0 else float("inf"))  # NaN
    return worst


def _all(embedder: Embedder, parts: list[Part]) -> tuple[list[Vectors], float]:
    groups: dict[Options, list[int]] = {}
    for place, part in enumerate(parts):
        groups.setdefault(part.options, []).append(place)
    result: list[Vectors | None] = [None] * len(parts)
    began = time.perf_counter()
    for options, places in groups.items():
        found = embedder.stream(
            [parts[place].item for place in places],
            seed=[parts[place].seed for place in places],
            max_new_tokens=MAX_TOKENS,
            batch_size=64,
            **options._asdict(),
        )
        for number, each in found:
            gen = each.gen if each.gen is None or options.n > 1 else each.gen[:, None]
            tokens = int(np.sum(each.tokens[0])) if each.tokens else 0
            disc = None if each.disc is None else each.disc[0]
            result[places[number]] = Vectors(disc, None if gen is None else gen[0], tokens)
    return result, time.perf_counter() - began


def _last_event(body: bytes) -> dict:
    """The vectors of a stream that ended well."""
    *_, last, done, _ = body.split(b"\n\n")
    if done != b"data: [DONE]":
        raise ValueError(f"a stream without its end: {body[-200:]!r}")
    return json.loads(last.removeprefix(b"data: "))["embedding"]


def _vector(value: str | list[float]) -> np.ndarray:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), "<f4")
    return np.array(value, np.float32)
