"""From pairs to one packed forward.

Both sides of a batch go through one packed forward. Identical sides (a label that many queries share) go through
it once and are used many times: same loss, same gradient, less work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from umer1.data.records import Pair, Side
from umer1.model.sequence import Packed, Sequence, pack
from umer1.processor import Processor
from umer1.prompts import Item, Medium

IGNORED = -100


@dataclass(slots=True)
class EncodedSide:
    """One side of one pair, ready to pack."""

    key: tuple  # equal keys: equal inputs
    sequence: Sequence  # prompt + response
    labels: Tensor  # int64 [T], IGNORED where nothing is supervised
    response_start: int  # first supervised position


@dataclass(slots=True)
class SFTBatch:
    """One contrastive batch of N pairs with U unique sequences of T packed tokens.

    Attributes:
        packed: the U sequences.
        next_tokens: int64 [T]; the token each position predicts, IGNORED where it is not supervised.
        query_tokens, target_tokens: float32 [T]; how many queries (targets) each position's prediction counts for.
        response_start: int64 [U]; generated tokens start here: a `<gen_emb>` before it is the instruction's.
        query_rows, target_rows: int64 [N]; the sequence of each pair's sides.
    """

    packed: Packed
    next_tokens: Tensor
    query_tokens: Tensor
    target_tokens: Tensor
    response_start: Tensor
    query_rows: Tensor
    target_rows: Tensor

    def to(self, device: torch.device) -> SFTBatch:
        moved = {name: getattr(self, name).to(device) for name in self.__dataclass_fields__}
        return SFTBatch(**moved)


def side_key(side: Side) -> tuple:
    """What makes two sides the same input: text, response and media paths."""
    return (side.text, side.response, tuple(side.images or ()), tuple(side.video or ()))


def side_media(side: Side, where: str = "") -> tuple[Medium, ...]:
    """A record's media, in the order of its placeholders."""
    if side.video:
        return (Medium("video", side.video, where),)
    return tuple(Medium("image", path, where) for path in side.images)


def side_item(side: Side, where: str = "") -> Item:
    """An RL side (a bare question and its media) as an item to prompt with."""
    return Item(side.text, side_media(side, where))


def encode_side(side: Side, processor: Processor, max_length: int, where: str) -> EncodedSide:
    """Encode an SFT side; one error names the record if it cannot be trained on."""
    if side.response is None:
        raise ValueError(f"{where}: has no response; SFT needs one on both sides")
    sequence, labels = processor.encode_turns(side.text, side.response, side_media(side, where))
    supervised = (labels != IGNORED).nonzero()
    start = int(supervised[0]) if len(supervised) else len(labels)
    if len(labels) > max_length:
        raise ValueError(
            f"{where}: {len(labels)} tokens, more than max_length {max_length}; cutting it would cut "
            f"off its <gen_emb>"
        )
    if not bool((sequence.input_ids[start:] == processor.gen_id).any()):
        raise ValueError(f"{where}: its response has no <gen_emb>")
    return EncodedSide(side_key(side), sequence, labels, start)


def collate_sft(pairs: list[tuple[EncodedSide, EncodedSide]], spatial_merge: int = 2) -> SFTBatch:
    """Pack N encoded pairs; identical sides become one sequence."""
    row_of: dict[tuple, int] = {}
    unique: list[EncodedSide] = []

    def row(side: EncodedSide) -> int:
        if side.key not in row_of:
            row_of[side.key] = len(unique)
            unique.append(side)
        return row_of[side.key]

    query_rows = torch.tensor([row(query) for query, _ in pairs])
    target_rows = torch.tensor([row(target) for _, target in pairs])
    packed = pack([side.sequence for side in unique], spatial_merge)
    lengths = torch.tensor(packed.lengths)
    return SFTBatch(
        packed=packed,
        next_tokens=torch.cat([shift(side.labels) for side in unique]),
        query_tokens=_counts(query_rows, len(unique)).repeat_interleave(lengths),
        target_tokens=_counts(target_rows, len(unique)).repeat_interleave(lengths),
        response_start=torch.tensor([side.response_start for side in unique]),
        query_rows=query_rows,
        target_rows=target_rows,
    )


def shift(labels: Tensor) -> Tensor:
    """The token each position predicts: the next one's label; the last position predicts nothing."""
    return torch.cat([labels[1:], labels.new_full((1,), IGNORED)])


def _counts(rows: Tensor, size: int) -> Tensor:
    return torch.bincount(rows, minlength=size).float()


def describe(pair: Pair, number: int, side: str) -> str:
    """Where a record stands, for error messages."""
    return f"record {number} ({pair.dataset}), {side}"
