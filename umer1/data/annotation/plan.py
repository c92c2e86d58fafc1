"""Which questions a run has to ask: read before any request, so that bad input costs nothing."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from umer1.data.annotation.prompts import Prompts
from umer1.data.annotation.sides import SIDES, Question, question
from umer1.data.media_names import below
from umer1.data.store import PairStore
from umer1.progress import progress_bar

MISSING = "missing medium"


@dataclass
class Plan:
    """Attributes:
    keys: uint64 [N, 2], what is asked of query and target; equal questions have equal keys.
    todo: (pair, side 0 or 1) to ask, in order.
    answered: questions that the journal has; repeated: sides with a question of an earlier side.
    unusable: (pair, side) -> (kind, reason), for sides that cannot be asked.
    """

    keys: np.ndarray
    todo: list[tuple[int, int]] = field(default_factory=list)
    answered: int = 0
    repeated: int = 0
    unusable: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)


def make_plan(
    store: PairStore,
    prompts: Prompts,
    root: str,
    answers: Container[int],
    *,
    limit: int | None = None,
    repeat_identical: bool = False,
    progress: bool = True,
) -> Plan:
    """The questions of the first `limit` pairs (all by default). Raises RecordError for a record
    that does not fit.

    Args:
        root: what media are named relative to, so that data may move.
        answers: keys that have an answer.
        repeat_identical: ask equal sides each for itself.
    """
    count = len(store) if limit is None else min(limit, len(store))
    plan = Plan(np.zeros((count, len(SIDES)), np.uint64))
    known: set[int] = set()
    with progress_bar("read pairs", count, unit="pairs", show=progress) as bar:
        for number in range(count):
            pair = store[number]
            for place, side in enumerate((pair.query, pair.target)):
                asked = question(side, pair.dataset)
                names, missing = _media(asked, root)
                if missing:
                    reason = f"{store.where(number)}, {SIDES[place]}: no such file: {missing}"
                    plan.unusable[number, place] = MISSING, reason
                    continue
                words = prompts.render(SIDES[place], asked)
                told = [SIDES[place], words, *names] + [str(number)] * repeat_identical
                key = _key(told)
                plan.keys[number, place] = key
                if key in known:
                    plan.repeated += 1
                    continue
                known.add(key)
                if key in answers:
                    plan.answered += 1
                else:
                    plan.todo.append((number, place))
            bar.advance(1, to_ask=len(plan.todo))
    return plan


def _media(asked: Question, root: str) -> tuple[list[str], str | None]:
    """What identifies the media (path below root and size, or a digest), and the first missing one."""
    names = []
    for medium in asked.media:
        if isinstance(medium, bytes):
            names.append(blake2b(medium, digest_size=16).hexdigest())
            continue
        try:
            status = os.stat(medium)
        except (OSError, ValueError):
            return names, medium
        names.append(f"{below(root, medium)}:{status.st_size}")
    return names, None


def _key(parts: list[str]) -> int:
    told = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "little")
