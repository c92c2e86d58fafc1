"""A record's sides as the model reads them: tokens, labels, and what makes two sides the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from umer1.data.digest import side_digest
from umer1.data.records import Pair, Side
from umer1.data.side_media import side_media
from umer1.media import MediaError
from umer1.model.sequence import Sequence
from umer1.processor import Processor
from umer1.prompts import Item, check_text

IGNORED = -100


@dataclass(slots=True)
class EncodedSide:
    """One side of one pair, ready to pack.

    Attributes:
        key: equal keys are equal inputs, of which one is computed.
        sequence: prompt + response; the prompt up to <disc_emb> where nothing is generated.
        labels: int64 [T], IGNORED where nothing is supervised.
        response_start: first supervised position.
        keep: int64 [K] ascending, positions whose final states count; None: all.
        content: 64 bits of text and media. Targets of equal content are the same target, whatever the
            responses. None: of the key.
        name: what the data calls it (`pos_id`); equal names are the same target in other words.
    """

    key: tuple
    sequence: Sequence
    labels: Tensor
    response_start: int
    keep: Tensor | None = None
    content: int | None = None
    name: str | None = None


@dataclass(slots=True)
class EncodedPair:
    """A query, its target, and targets that are wrong on purpose."""

    query: EncodedSide
    target: EncodedSide
    negatives: tuple[EncodedSide, ...] = ()


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
    return EncodedPair(query, replace(target, name=pair.target_id), tuple(negatives))


def encode_side(
    side: Side, processor: Processor, max_length: int, where: str, *, generative: bool = True
) -> EncodedSide:
    """Encode an SFT side; one error names the record if it cannot be trained on.

    generative: False ends the sequence at its `<disc_emb>`: no later token changes that one's state.
    """
    if side.response is None and generative:
        raise ValueError(f"{where}: has no response; SFT needs one on both sides")
    # without generation nothing of a response is read
    response = side.response if generative else None
    try:
        sequence, labels = processor.encode_turns(
            side.text, response or "", side_media(side, where)
        )
    except MediaError:  # begins with where
        raise
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
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
    content = side_digest(side)
    return EncodedSide(
        key=(content, response),
        sequence=sequence,
        labels=labels,
        response_start=start,
        keep=wanted.nonzero()[:, 0],
        content=content,
        name=side.target_id,
    )


def side_item(side: Side, where: str = "") -> Item:
    """An RL side (a bare question and its media) as an item to prompt with."""
    check_text(side.text, where)
    return Item(side.text, side_media(side, where))


def shift(labels: Tensor) -> Tensor:
    """The token each position predicts: the next one's label; the last position predicts nothing."""
    return torch.cat([labels[1:], labels.new_full((1,), IGNORED)])


def describe(pair: Pair, number: int) -> str:
    """Where a record stands, for error messages."""
    return f"record {number} ({pair.dataset})"
