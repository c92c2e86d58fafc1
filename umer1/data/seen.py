"""Whether a pair is in another set, perhaps of another format and in another place.

Pairs are equal when their texts are (without placeholders, prompts and differences of white space)
and their media have the same names: the last two parts of a picture's path, of the folder of a
video's frames. Pictures that a table holds itself have no names: then texts alone decide.
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


@dataclass(frozen=True, slots=True)
class Digests:
    """Of texts and media; of the texts alone; whether the media have names."""

    whole: int
    texts: int
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
    texts = [" ".join(bare_text(side.text).split()) for side in sides]
    names = [_media_name(side) for side in sides]
    named = not any(isinstance(image, bytes) for side in sides for image in side.images)
    return Digests(_digest(*texts, *names), _digest(*texts), named)


def target_digest(pair: Pair) -> int:
    """Equal for equal targets."""
    return _digest(" ".join(bare_text(pair.target.text).split()), _media_name(pair.target))


def _media_name(side: Side) -> str:
    if side.video:
        folder = PurePath(side.video[0]).parent if len(side.video) > 1 else side.video[0]
        return "video:" + _last_parts(folder)
    return "\1".join(
        blake2b(image, digest_size=16).hexdigest()
        if isinstance(image, bytes)
        else _last_parts(image)
        for image in side.images
    )


def _last_parts(path) -> str:
    return "/".join(PurePath(path).parts[-2:])


def _digest(*parts: str) -> int:
    told = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8).digest(), "little")
