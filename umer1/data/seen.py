"""Whether a pair is in another set, perhaps of another format and in another place.

Pairs are equal when their texts are (without placeholders, prompts and differences of white space)
and their media have the same names: the last three parts of the paths of the pictures, of a video's
first frame. Pictures that a table holds itself have no names: then texts alone decide.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePath

from umer1.data.annotation.sides import bare_text
from umer1.data.records import Pair, Side
from umer1.data.store import PairStore
from umer1.progress import progress_bar

_PARTS = 3  # of a path: dataset, split and file in the released layout


@dataclass(frozen=True, slots=True)
class Digests:
    """Of texts and media's names; of the texts alone; of texts and whole paths; whether the media have
    names."""

    whole: int
    texts: int
    exact: int
    named: bool


class SeenPairs:
    """Sets of digests, 8 bytes each in the making and about 60 in memory."""

    def __init__(self, whole: Iterable[int] = (), texts: Iterable[int] = ()):
        self._whole, self._texts = frozenset(whole), frozenset(texts)

    @classmethod
    def of(cls, stores: Iterable[PairStore], *, progress: bool = True) -> SeenPairs:
        whole, texts = array("Q"), array("Q")
        for store in stores:
            with progress_bar("read seen", len(store), unit="pairs", show=progress) as bar:
                for number in range(len(store)):
                    digests = pair_digests(store[number])
                    whole.append(digests.whole)
                    texts.append(digests.texts)
                    bar.advance(1)
        return cls(whole, texts)

    def has(self, digests: Digests) -> bool:
        if digests.named:
            return digests.whole in self._whole
        return digests.texts in self._texts


def pair_digests(pair: Pair) -> Digests:
    sides = pair.query, pair.target
    texts = [_words(side) for side in sides]
    names, exact = ([_media(side, parts) for side in sides] for parts in (_PARTS, None))
    named = not any(isinstance(image, bytes) for side in sides for image in side.images)
    return Digests(_digest(*texts, *names), _digest(*texts), _digest(*texts, *exact), named)


def target_digest(pair: Pair) -> int:
    """Equal for equal targets of one set."""
    return _digest(_words(pair.target), _media(pair.target, None))


def _words(side: Side) -> str:
    return " ".join(bare_text(side.text).split())


def _media(side: Side, parts: int | None) -> str:
    """What a side's media are called: the last parts of paths, or with None all of all of them."""
    if side.video:
        return "\1".join(
            ["video", *map(str, side.video)]
            if parts is None
            else ["video", _last(side.video[0], parts)]
        )
    return "\1".join(
        blake2b(image, digest_size=16).hexdigest()
        if isinstance(image, bytes)
        else image
        if parts is None
        else _last(image, parts)
        for image in side.images
    )


def _last(path: str, parts: int) -> str:
    return "/".join(PurePath(path).parts[-parts:])


def _digest(*parts: str) -> int:
    told = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "little")
