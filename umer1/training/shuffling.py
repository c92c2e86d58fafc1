"""Shuffles that are the same on every machine and with every version of numpy."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


class Shuffle:
    """A stream of shuffles that (seed, labels) decide.

    numpy promises the bits of a bit generator for good, but not what `Generator.shuffle` makes of them. So a
    shuffle sorts the rows by random bits of their own.
    """

    def __init__(self, seed: int, *labels: int):
        entropy = [number & 0xFFFF_FFFF_FFFF_FFFF for number in (seed, *labels)]
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The rows in another order."""
        bits = self._bits.random_raw(len(rows))
        return rows[ascending(bits >> np.uint64(place_bits(len(rows))))]

    def ranks(self, count: int) -> np.ndarray:
        """0 to count - 1 in random order, int64."""
        return self(np.arange(count))


def ascending(values: np.ndarray) -> np.ndarray:
    """`argsort(values, kind="stable")` for whole numbers from 0 below 2 ** (64 - place_bits), several times faster.

    The place goes into the low bits and the numbers themselves are sorted: no two are equal, so any sort is stable,
    and numpy sorts numbers by vector instructions where it does not sort places.
    """
    low = np.uint64(place_bits(len(values)))
    placed = (values.astype(np.uint64) << low) | np.arange(len(values), dtype=np.uint64)
    placed.sort()
    return (placed & ((np.uint64(1) << low) - np.uint64(1))).astype(np.int64)


def place_bits(count: int) -> int:
    """Bits that hold the places of so many items."""
    return max(count - 1, 1).bit_length()


def numbered(labels: np.ndarray | Sequence[Hashable]) -> tuple[list, np.ndarray]:
    """The distinct labels and each item's number among them, unsigned, as small as they allow.

    Integers and names are in ascending order, so that numbers do not depend on the order of the items; other
    labels (tuples) are in order of appearance.
    """
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        distinct, numbers = np.unique(labels, return_inverse=True)
        names = distinct.tolist()
    else:
        names = list(dict.fromkeys(labels))
        if all(isinstance(name, str) for name in names):
            names.sort()
        number_of = {name: number for number, name in enumerate(names)}
        numbers = np.fromiter((number_of[label] for label in labels), np.int64, len(labels))
    # numpy sorts 8 and 16 bit integers by counting
    return names, numbers.astype(np.min_scalar_type(max(len(names) - 1, 0)))
