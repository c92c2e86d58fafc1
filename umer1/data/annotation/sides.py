"""A side of a pair as a question to the teacher, and as a side of an SFT record again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from umer1.data.records import Pair, Side
from umer1.data.vlm2vec_rows import human_turn
from umer1.prompts import DISC_TOKEN, GEN_TOKEN, GENERATION_INSTRUCTION

SIDES = ("query", "target")
_PLACEHOLDER = re.compile(r"<(?:image|video)>\n?|<\|image_\d+\|>\n?")

Named = Callable[[str | bytes], str]  # a medium -> its name in a record


@dataclass(frozen=True, slots=True)
class Question:
    """What the teacher sees of one side.

    Attributes:
        text: without placeholders, <disc_emb> and what follows it.
        media: pictures, or the frames of one video.
    """

    text: str
    dataset: str
    media: tuple[str | bytes, ...] = ()
    is_video: bool = False


def question(side: Side, dataset: str) -> Question:
    return Question(
        bare_text(side.text), dataset, tuple(side.video or side.images), bool(side.video)
    )


def bare_text(text: str) -> str:
    """A side's own words: without media placeholders, <disc_emb> and the instruction after it."""
    return _PLACEHOLDER.sub("", text.partition(DISC_TOKEN)[0]).strip()


def response(reasoning: str, summary: str) -> str:
    """The assistant's turn in the released format; `<answer>` is never closed there."""
    return f"<think>{reasoning}</think><answer>{summary}\n{GEN_TOKEN}"


def sft_record(pair: Pair, responses: list[str], named: Named) -> dict:
    """The SFT record of a pair with the responses of its query and its target."""
    query, target = (
        _sft_side(side, text, named)
        for side, text in zip((pair.query, pair.target), responses, strict=True)
    )
    record = {"dataset_name": pair.dataset, "qry": query, "pos": target}
    if pair.negatives:
        record["neg"] = [
            _sft_side(side, side.response or "", named)
            | ({} if side.target_id is None else {"pos_id": side.target_id})
            for side in pair.negatives
        ]
    if pair.target_id is not None:
        record["pos_id"] = pair.target_id
    return record


def _sft_side(side: Side, text: str, named: Named) -> dict:
    turns = [{"from": "human", "value": _asking(side)}, {"from": "gpt", "value": text}]
    media = {}
    if side.images:
        names = [named(image) for image in side.images]
        media["image"] = names[0] if len(names) == 1 else names
    if side.video:
        media["video"] = [named(frame) for frame in side.video]
    return {"conversations": turns, **media}


def _asking(side: Side) -> str:
    """The human turn: as it is where the record has a whole one, else made of the bare text."""
    text = side.text if DISC_TOKEN in side.text else human_turn(side)
    if text.rstrip().endswith(DISC_TOKEN):
        return f"{text.rstrip()}\n{GENERATION_INSTRUCTION}"
    return text
