"""What an engine gives, item by item, and as `Embeddings`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch

from umer1.embeddings import Embeddings
from umer1.engine import Engine, Generated, Prompt, Sampling
from umer1.prompts import parse_response


def finished_items(
    engine: Engine, prompts: Iterable[tuple[int, Prompt]], sampling: Sampling, samples: int
) -> Iterator[tuple[int, Generated]]:
    """(place, result) of items whose samples have all finished, in any order. prompts: (place,
    prompt), read as the engine has room."""
    places: list[int] = []
    unfinished: dict[int, Generated] = {}

    def placed() -> Iterator[Prompt]:
        for place, prompt in prompts:
            places.append(place)
            unfinished[place] = Generated(rollouts=[None] * samples)
            yield prompt

    with closing(engine.submit(placed(), sampling, samples=samples)) as rows:
        for row in rows:
            place = places[row.prompt]
            result = unfinished[place]
            result.disc = row.disc
            if samples:
                result.rollouts[row.sample] = row.rollout
            if None not in result.rollouts:
                yield place, unfinished.pop(place)


def collect(
    results: Sequence[Generated],
    mode: str,
    n: int,
    decode: Callable[[Sequence[int]], str],
    dimension: int,
) -> Embeddings:
    """What the engine gave for items, in their order.

    Args:
        mode: "disc", "gen" or "both"; n: samples per item.
        decode: tokens to text. dimension: of the vectors, which no items do not tell.
    """

    def stack(vectors: list) -> np.ndarray:
        if not vectors:
            return np.zeros((0, dimension), np.float32)
        return torch.stack(vectors).cpu().numpy()

    if mode == "disc":
        return Embeddings(disc=stack([result.disc for result in results]))

    def per_item(read) -> list:
        each = [[read(rollout) for rollout in result.rollouts] for result in results]
        return each if n > 1 else [values[0] for values in each]

    texts = [
        [parse_response(decode(rollout.tokens)) for rollout in result.rollouts]
        for result in results
    ]
    pick = (lambda values: values) if n > 1 else (lambda values: values[0])
    hit = np.array(
        [[rollout.hit for rollout in result.rollouts] for result in results], bool
    ).reshape(len(results), n)
    flat = [rollout.vector for result in results for rollout in result.rollouts]
    gen = stack(flat).reshape(len(results), n, dimension)
    return Embeddings(
        disc=stack([result.disc for result in results]) if mode == "both" else None,
        gen=gen if n > 1 else np.ascontiguousarray(gen[:, 0]),
        reasoning=[pick([reasoning for reasoning, _ in each]) for each in texts],
        summary=[pick([summary for _, summary in each]) for each in texts],
        tokens=per_item(lambda rollout: len(rollout.tokens)),
        finish=per_item(lambda rollout: rollout.finish),
        hit=hit if n > 1 else hit[:, 0],
    )
