"""Heavy consecutive repetition: the loop a sampled text falls into.

find_repetition("so so so so so …")     # ("so", 64)
"""

from __future__ import annotations

import re

import numpy as np

LONGEST_UNIT = 200  # words
_SEQUENCE = 4  # words
_ROWS = 32  # periods compared at once: bounds the memory for long texts

# words, single characters of scripts that do not space them, punctuation marks; a word without end
# is cut, so that a loop without spaces is one of pieces
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    r"|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,32}|[^\w\s]"
)


def find_repetition(text: str, copies: int = 4, span: int = 64) -> tuple[str, int] | None:
    """(unit, copies) of the longest stretch in which a unit of at most 200 words stands `copies` times
    or more one after the other, over `span` words or more; None without one.

    Upper and lower case are equal; white space does not count.
    """
    words = _WORD.findall(text.lower())
    longest_unit = min(LONGEST_UNIT, len(words) // copies)
    if len(words) < span or longest_unit < 1:
        return None
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    ids = np.array([numbers[word] for word in words], np.int64)
    if _repeated_sequences(ids) < span - span // copies - _SEQUENCE:
        return None  # most texts: too few sequences stand twice for any such stretch
    best_span, best = 0, None
    for first in range(1, longest_unit + 1, _ROWS):
        periods = np.arange(first, min(first + _ROWS, longest_unit + 1))
        runs, ends = _longest_runs(ids, periods)
        spans = runs + periods  # words in which every word equals the one a period before
        heavy = (spans >= np.maximum(copies * periods, span)) & (spans > best_span)
        for place in np.flatnonzero(heavy):
            if spans[place] > best_span:
                period, best_span = int(periods[place]), int(spans[place])
                start = int(ends[place]) - best_span
                best = " ".join(words[start : start + period]), best_span // period
    return best


def _repeated_sequences(ids: np.ndarray) -> int:
    """How many sequences of `_SEQUENCE` words are not the first of their kind. A stretch of s words
    with unit p has at least s - (_SEQUENCE - 1) - p of them."""
    # equal sequences have equal codes, also where these overflow
    codes = np.zeros(max(len(ids) - _SEQUENCE + 1, 0), np.int64)
    for place in range(_SEQUENCE):
        codes = codes * (int(ids.max()) + 1) + ids[place : place + len(codes)]
    return len(codes) - len(np.unique(codes))


def _longest_runs(ids: np.ndarray, periods: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each period p the length of the longest run with ids[i] == ids[i - p], and the run's end.

    ids: int64 [N]; periods: [P]; both results int64 [P].
    """
    count = len(ids)
    places = np.arange(count)
    shifted = places - periods[:, None]  # [P, N]
    equal = (ids == ids[shifted.clip(0)]) & (shifted >= 0)
    last_unequal = np.maximum.accumulate(np.where(equal, -1, places), axis=1)
    lengths = places - last_unequal
    ends = lengths.argmax(axis=1)
    return lengths[np.arange(len(periods)), ends], ends + 1
