"""What the model writes, as rows to look at: rollouts with their rewards (RL), greedy generations of fixed pairs (SFT).

A row (a dict, one line of `samples/<stage>/step-*.jsonl`) has
    pair, source, side ("query" | "target"), prompt, media (paths), completion, tokens, finish
    nearest (the other side's item that its vector is closest to), nearest_right
and from RL  format, rank, gap, reward, advantage;  from SFT  reference (the record's own response).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from umer1.data.records import Pair, Side
from umer1.engine import Generated, Prompt, Sampling, generate
from umer1.model.qwen2_vl import Qwen2VL
from umer1.processor import Processor
from umer1.training.encoded import describe, encode_side
from umer1.training.lora import merged
from umer1.training.settings import SFTConfig

if TYPE_CHECKING:  # the loop knows the monitor, the monitor the rows
    from umer1.training.loop import Run

LONGEST = 1024  # tokens of a greedy sample; the released data has about 500
SIDES = ("query", "target")


def rollout_rows(
    pairs: Sequence[Pair],
    sides: Sequence[Sequence[Generated]],
    rewards: dict[str, Tensor],
    decode: Callable[[list[int]], str],
    count: int,
) -> list[dict]:
    """Rows of the first `count` pairs' rollouts.

    Args:
        pairs: N pairs of this process.
        sides: results of the N queries, of the N targets, G rollouts each.
        rewards: "format", "rank", "gap", "reward", "advantage" …, each [2, N, G].
        decode: ids to text.
    """
    vectors = [_vectors(side) for side in sides]
    rows = []
    for place, (name, side) in enumerate(zip(SIDES, sides)):
        nearest = _nearest(vectors[place], vectors[1 - place])
        for index, (pair, result) in enumerate(zip(pairs[:count], side)):
            for sample, rollout in enumerate(result.rollouts):
                best = int(nearest[index, sample]) if rollout.hit else None
                rows.append(
                    {
                        **_about(pair, index, name),
                        "sample": sample,
                        "completion": decode(rollout.tokens),
                        "tokens": len(rollout.tokens),
                        "finish": rollout.finish,
                        **_nearest_item(pairs, best, index, 1 - place),
                        **{key: float(of[place, index, sample]) for key, of in rewards.items()},
                    }
                )
    return rows


@torch.no_grad()
def greedy_rows(
    model: Qwen2VL, processor: Processor, pairs: Sequence[Pair], max_length: int
) -> list[dict]:
    """Rows of greedy generations for both sides of SFT pairs; the model's mode is as before afterwards.

    A pair that cannot be encoded is left out and named on stdout: looking must not end a run.
    """
    encoded: list[tuple[Pair, list]] = []
    for index, pair in enumerate(pairs):
        try:
            encoded.append(
                (pair, [_sft_prompt(pair, name, index, processor, max_length) for name in SIDES])
            )
        except (ValueError, OSError) as error:
            print(f"samples: left out, {error}", flush=True)
    if not encoded:
        return []
    pairs = [pair for pair, _ in encoded]
    sequences = [sides[place] for place in range(len(SIDES)) for _, sides in encoded]
    prompts = [Prompt(sequence, number) for number, sequence in enumerate(sequences)]
    training = model.training
    results = generate(
        model.eval(),
        prompts,
        Sampling(min(LONGEST, max_length), stop="eos"),
        gen_id=processor.gen_id,
        eos_id=processor.eos_id,
    )
    model.train(training)
    halves = results[: len(pairs)], results[len(pairs) :]
    rows = rollout_rows(pairs, halves, {}, processor.decode, len(pairs))
    for row, side in zip(rows, [getattr(pair, name) for name in SIDES for pair in pairs]):
        row["reference"] = side.response
    return rows


def show_samples(state: Run, pairs: Sequence[Pair], config: SFTConfig) -> None:
    """Write greedy generations of the run's fixed pairs. All processes call it: weights may be spread over them."""
    chosen = _readable(pairs, fixed_pairs(_sources(pairs), config.samples_count))
    with state.parallel.whole_weights() as model, merged(model):
        rows = greedy_rows(model, state.processor, chosen, config.max_length)
    state.monitor.samples(state.step, rows if state.parallel.is_main else [])


def _readable(pairs: Sequence[Pair], numbers: list[int]) -> list[Pair]:
    """Those of the pairs that fit the format; the others are named on stdout."""
    found = []
    for number in numbers:
        try:
            found.append(pairs[number])
        except (ValueError, OSError) as error:
            print(f"samples: left out, {error}", flush=True)
    return found


def _sources(pairs) -> Sequence:
    """Of each pair, without reading it where the pairs are a store."""
    sources = getattr(pairs, "sources", None)
    return [pair.dataset for pair in pairs] if sources is None else sources


def fixed_pairs(sources: Sequence, count: int) -> list[int]:
    """`count` pair numbers that stay the same all run long: the first of each source in turn."""
    first: dict = {}
    for index, source in enumerate(sources):
        first.setdefault(source, index)
        if len(first) == count:
            break
    chosen = list(first.values())
    rest = (index for index in range(len(sources)) if index not in set(chosen))
    while len(chosen) < min(count, len(sources)):
        chosen.append(next(rest))
    return chosen


def _sft_prompt(pair: Pair, name: str, index: int, processor: Processor, max_length: int):
    encoded = encode_side(
        getattr(pair, name), processor, max_length, f"{describe(pair, index)}, {name}"
    )
    start = encoded.response_start
    return replace(
        encoded.sequence,
        input_ids=encoded.sequence.input_ids[:start],
        media_mask=encoded.sequence.media_mask[:start],
    )


def _vectors(side: Sequence[Generated]) -> Tensor:
    """[N, G, H]; zero for a rollout without a vector, so that it is nobody's nearest."""
    return torch.stack(
        [
            torch.stack([each.vector.float().cpu() * each.hit for each in result.rollouts])
            for result in side
        ]
    )


def _nearest(vectors: Tensor, others: Tensor) -> Tensor:
    """Pair number int64 [N, G] of the most similar vector of the other side."""
    similarity = vectors.flatten(0, 1) @ others.flatten(0, 1).T
    return similarity.argmax(1).view(vectors.shape[:2]) // others.shape[1]


def _about(pair: Pair, index: int, name: str) -> dict:
    side: Side = getattr(pair, name)
    return {
        "pair": index,
        "source": pair.dataset,
        "side": name,
        "prompt": side.text,
        "media": list(side.video or side.images or ()),
    }


def _nearest_item(pairs: Sequence[Pair], best: int | None, index: int, place: int) -> dict:
    if best is None:
        return {"nearest": None, "nearest_right": False}
    side: Side = getattr(pairs[best], SIDES[place])
    media = side.video or side.images or ()
    shown = side.text if not media else f"{side.text} [{media[0]}]"
    return {"nearest": shown, "nearest_right": best == index}
