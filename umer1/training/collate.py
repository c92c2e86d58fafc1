"""From pairs to packed forward passes.

Both sides of a batch go through the model together. Identical sides (a label that many queries share)
go through it once and are used many times: same loss, same gradient, less work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from umer1.data.records import Pair, Side
from umer1.model.sequence import Packed, Sequence, pack
from umer1.processor import Processor
from umer1.prompts import Item, Medium
from umer1.training.microbatches import plan_microbatches

IGNORED = -100


@dataclass(slots=True)
class EncodedSide:
    """One side of one pair, ready to pack."""

    key: tuple  # equal keys: equal inputs
    sequence: Sequence  # prompt + response; the prompt up to <disc_emb> where nothing is generated
    labels: Tensor  # int64 [T], IGNORED where nothing is supervised
    response_start: int  # first supervised position
    keep: Tensor | None = None  # int64 [K] ascending: positions whose final states count; None: all


@dataclass(slots=True)
class EncodedPair:
    """A query, its target, and targets that are wrong on purpose.

    Attributes:
        target_id: pairs of equal ids are no negatives of each other where that is asked for.
    """

    query: EncodedSide
    target: EncodedSide
    negatives: tuple[EncodedSide, ...] = ()
    target_id: str | None = None  # None: the target's own content


@dataclass(slots=True)
class SFTPart:
    """The sequences of one forward pass: U of them, T packed tokens, K whose final states count.

    Attributes:
        packed: the sequences.
        keep: int64 [K], packed positions of those states.
        input_ids: int64 [K], their tokens; cu_seqlens: int32 [U + 1], where each sequence's begin.
        next_tokens: int64 [K]; the token each position predicts, IGNORED where it is not supervised.
        query_tokens, target_tokens: float32 [K]; how many queries (targets) each prediction counts for.
        response_start: int64 [U]; generated tokens start at this one of the sequence's kept positions: a
            `<gen_emb>` before it is the instruction's.
    """

    packed: Packed
    keep: Tensor
    input_ids: Tensor
    cu_seqlens: Tensor
    next_tokens: Tensor
    query_tokens: Tensor
    target_tokens: Tensor
    response_start: Tensor

    def to(self, device: torch.device) -> SFTPart:
        return SFTPart(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(slots=True)
class SFTBatch:
    """One contrastive batch: N pairs, M hard negatives, U different sequences in one or more parts.

    Rows number the sequences of all parts, one part after the other.

    Attributes:
        parts: what goes through the model at once.
        query_rows, target_rows: int64 [N]; the sequence of each pair's sides. negative_rows: int64 [M].
        pair_ids, negative_ids: int64 [N], [M]; equal ids mean the same, in every process and step.
        supervised: float32 [2], supervised tokens of all queries and of all targets.
    """

    parts: list[SFTPart]
    query_rows: Tensor
    target_rows: Tensor
    negative_rows: Tensor
    pair_ids: Tensor
    negative_ids: Tensor
    supervised: Tensor

    @property
    def tokens(self) -> int:
        """Packed tokens, of all parts."""
        return sum(sum(part.packed.lengths) for part in self.parts)

    def to(self, device: torch.device) -> SFTBatch:
        moved = {name: getattr(self, name) for name in self.__dataclass_fields__}
        moved |= {name: value.to(device) for name, value in moved.items() if name != "parts"}
        return SFTBatch(**moved | {"parts": [part.to(device) for part in self.parts]})


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


def encode_side(
    side: Side, processor: Processor, max_length: int, where: str, *, generative: bool = True
) -> EncodedSide:
    """Encode an SFT side; one error names the record if it cannot be trained on.

    generative: False ends the sequence at its `<disc_emb>`: no later token changes that one's state.
    """
    if side.response is None and generative:
        raise ValueError(f"{where}: has no response; SFT needs one on both sides")
    sequence, labels = processor.encode_turns(
        side.text, side.response or "", side_media(side, where)
    )
    supervised = (labels != IGNORED).nonzero()
    start = int(supervised[0]) if len(supervised) else len(labels)
    ids = sequence.input_ids
    disc = (ids[:start] == processor.disc_id).nonzero()
    if len(disc) == 0:
        raise ValueError(f"{where}: its human turn has no <disc_emb>")
    if not generative:
        end = int(disc[-1]) + 1
        sequence, labels = sequence.head(end), torch.full((end,), IGNORED)
        ids, start = sequence.input_ids, end
    if len(labels) > max_length:
        raise ValueError(
            f"{where}: {len(labels)} tokens, more than max_length {max_length}; cutting it would cut "
            f"off its <{'gen' if generative else 'disc'}_emb>"
        )
    generated = ids == processor.gen_id
    generated[:start] = False
    if generative and not bool(generated.any()):
        raise ValueError(f"{where}: its response has no <gen_emb>")
    wanted = (shift(labels) != IGNORED) | generated | (ids == processor.disc_id)
    key = side_key(side)
    return EncodedSide(key, sequence, labels, start, wanted.nonzero()[:, 0])


def encode_pair(
    pair: Pair,
    processor: Processor,
    max_length: int,
    where: str,
    *,
    generative: bool = True,
    hard_negatives: int = 0,
) -> EncodedPair:
    """Both sides, and the first `hard_negatives` of the record's `neg`."""
    if len(pair.negatives) < hard_negatives:
        raise ValueError(
            f"{where}: has {len(pair.negatives)} sides under 'neg', hard_negatives wants "
            f"{hard_negatives} of every record"
        )
    names = ["qry", "pos", *(f"neg[{number}]" for number in range(hard_negatives))]
    sides = [pair.query, pair.target, *pair.negatives[:hard_negatives]]
    query, target, *negatives = (
        encode_side(side, processor, max_length, f"{where}, {name}", generative=generative)
        for side, name in zip(sides, names)
    )
    return EncodedPair(query, target, tuple(negatives), pair.target_id)


def collate_sft(
    pairs: list[EncodedPair], spatial_merge: int = 2, *, microbatch_tokens: int = 0
) -> SFTBatch:
    """Pack N encoded pairs; identical sides become one sequence.

    microbatch_tokens: the most tokens of a part, if more than one sequence is in it; 0: one part.
    """
    row_of: dict[tuple, int] = {}
    unique: list[EncodedSide] = []

    def rows(sides: Iterable[EncodedSide]) -> list[int]:
        for side in sides:
            if side.key not in row_of:
                row_of[side.key] = len(unique)
                unique.append(side)
        return [row_of[side.key] for side in sides]

    negatives = [side for pair in pairs for side in pair.negatives]
    numbers = [
        rows([pair.query for pair in pairs]),
        rows([pair.target for pair in pairs]),
        rows(negatives),
    ]
    lengths = [len(side.sequence) for side in unique]
    plan = [list(range(len(unique)))]
    if microbatch_tokens:
        plan = plan_microbatches(lengths, microbatch_tokens)
    place = torch.empty(len(unique), dtype=torch.int64)
    place[torch.tensor([number for part in plan for number in part])] = torch.arange(len(unique))
    counts = [
        torch.bincount(torch.tensor(each), minlength=len(unique)).float() for each in numbers[:2]
    ]
    supervised = torch.tensor([int((shift(side.labels) != IGNORED).sum()) for side in unique])
    return SFTBatch(
        parts=[_part(unique, part, counts, spatial_merge) for part in plan],
        query_rows=place[numbers[0]],
        target_rows=place[numbers[1]],
        negative_rows=place[torch.tensor(numbers[2], dtype=torch.int64)],
        pair_ids=torch.tensor([_number(pair.target_id or pair.target.key) for pair in pairs]),
        negative_ids=torch.tensor([_number(side.key) for side in negatives], dtype=torch.int64),
        supervised=torch.stack([(supervised * count).sum() for count in counts]),
    )


def shift(labels: Tensor) -> Tensor:
    """The token each position predicts: the next one's label; the last position predicts nothing."""
    return torch.cat([labels[1:], labels.new_full((1,), IGNORED)])


def describe(pair: Pair, number: int) -> str:
    """Where a record stands, for error messages."""
    return f"record {number} ({pair.dataset})"


def _part(
    unique: list[EncodedSide], chosen: list[int], counts: list[Tensor], spatial_merge: int
) -> SFTPart:
    sides = [unique[number] for number in chosen]
    packed = pack([side.sequence for side in sides], spatial_merge)
    kept = [torch.arange(len(side.sequence)) if side.keep is None else side.keep for side in sides]
    sizes = torch.tensor([len(each) for each in kept])
    starts = packed.cu_seqlens[:-1].tolist()
    keep = torch.cat([each + start for each, start in zip(kept, starts)])
    return SFTPart(
        packed=packed,
        keep=keep,
        input_ids=packed.input_ids[keep],
        cu_seqlens=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(torch.int32),
        next_tokens=torch.cat([shift(side.labels) for side in sides])[keep],
        query_tokens=counts[0][chosen].repeat_interleave(sizes),
        target_tokens=counts[1][chosen].repeat_interleave(sizes),
        response_start=torch.tensor(
            [int((each < side.response_start).sum()) for each, side in zip(kept, sides)]
        ),
    )


def _number(meaning: object) -> int:
    """64 bits of a hash: the same for equal meanings in every process."""
    digest = hashlib.blake2b(repr(meaning).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
