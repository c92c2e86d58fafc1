"""From encoded pairs to packed forward passes.

Both sides of a batch go through the model together. Identical sides (a label that many queries share)
go through it once and are used many times: same loss, same gradient, less work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from umer1.data.digest import text_digest
from umer1.model.sequence import Packed, pack
from umer1.training.encoded import IGNORED, EncodedPair, EncodedSide, shift
from umer1.training.packing import plan_microbatches


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
        pair_ids, negative_ids: int64 [N], [M]; equal ids are equal targets, in every process and step.
        supervised: float32 [2], supervised tokens of all queries and of all targets.
        names: int64 [N + M]; equal ones are the same target in other words. None: the ids, since nothing has a
            name (`umer1.training.twins` makes one id of both).
    """

    parts: list[SFTPart]
    query_rows: Tensor
    target_rows: Tensor
    negative_rows: Tensor
    pair_ids: Tensor
    negative_ids: Tensor
    supervised: Tensor
    names: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Packed tokens, of all parts."""
        return sum(sum(part.packed.lengths) for part in self.parts)

    def to(self, device: torch.device) -> SFTBatch:
        given = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "parts"}
        moved = {name: each if each is None else each.to(device) for name, each in given.items()}
        return SFTBatch(parts=[part.to(device) for part in self.parts], **moved)


def collate_sft(
    pairs: list[EncodedPair], spatial_merge: int = 2, *, microbatch_tokens: int = 0
) -> SFTBatch:
    """Pack N encoded pairs; identical sides become one sequence.

    microbatch_tokens: the most tokens of a part, if more than one sequence is in it; 0: one part.
    """
    number_of: dict[tuple, int] = {}
    unique: list[EncodedSide] = []

    def numbers_of(sides: Iterable[EncodedSide]) -> list[int]:
        """Which of `unique` each side is."""
        for side in sides:
            if side.key not in number_of:
                number_of[side.key] = len(unique)
                unique.append(side)
        return [number_of[side.key] for side in sides]

    targets = [pair.target for pair in pairs]
    negatives = [side for pair in pairs for side in pair.negatives]
    queries_in_unique = numbers_of([pair.query for pair in pairs])
    targets_in_unique = numbers_of(targets)
    negatives_in_unique = numbers_of(negatives)
    lengths = [len(side.sequence) for side in unique]
    plan = [list(range(len(unique)))]
    if microbatch_tokens:
        plan = plan_microbatches(lengths, microbatch_tokens)
    # rows number the sequences in the order in which the parts hold them
    row_of = torch.empty(len(unique), dtype=torch.int64)
    row_of[torch.tensor([number for part in plan for number in part])] = torch.arange(len(unique))
    query_count, target_count = (
        torch.bincount(torch.tensor(each), minlength=len(unique)).float()
        for each in (queries_in_unique, targets_in_unique)
    )
    named = any(side.name is not None for side in [*targets, *negatives])
    supervised = torch.tensor([int((shift(side.labels) != IGNORED).sum()) for side in unique])
    return SFTBatch(
        parts=[_part(unique, part, query_count, target_count, spatial_merge) for part in plan],
        query_rows=row_of[queries_in_unique],
        target_rows=row_of[targets_in_unique],
        negative_rows=row_of[torch.tensor(negatives_in_unique, dtype=torch.int64)],
        pair_ids=_int64(map(content_id, targets)),
        negative_ids=_int64(map(content_id, negatives)),
        supervised=torch.stack(
            [(supervised * count).sum() for count in (query_count, target_count)]
        ),
        names=_int64(map(name_id, [*targets, *negatives])) if named else None,
    )


def content_id(side: EncodedSide) -> int:
    """64 bits of what a side is: the same in every process."""
    if side.content is not None:
        return side.content
    digest = blake2b(repr(side.key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def name_id(side: EncodedSide) -> int:
    """64 bits of what the data calls a side; of what it is where it has no name."""
    return content_id(side) if side.name is None else text_digest(side.name)


def _part(
    unique: list[EncodedSide],
    chosen: list[int],
    query_count: Tensor,
    target_count: Tensor,
    spatial_merge: int,
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
        query_tokens=query_count[chosen].repeat_interleave(sizes),
        target_tokens=target_count[chosen].repeat_interleave(sizes),
        response_start=torch.tensor(
            [int((each < side.response_start).sum()) for each, side in zip(kept, sides)]
        ),
    )


def _int64(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64)
