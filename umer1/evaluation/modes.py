"""Pairs of embedding modes, one for queries and one for candidates."""

from collections.abc import Iterable
from itertools import product

MODES = ("disc", "gen")


def parse_modes(modes: str | Iterable[str | tuple[str, str]]) -> list[tuple[str, str]]:
    """(query mode, candidate mode) pairs from "disc", "gen", "gen-disc" or ("gen", "disc"), without
    repeats.

    "both" on a side stands for disc and gen: "both-disc" is disc,gen-disc, and "both" alone is all
    four pairs.
    """
    listed = modes.split(",") if isinstance(modes, str) else list(modes)
    pairs = []
    for mode in listed:
        sides = tuple(mode.split("-")) if isinstance(mode, str) else tuple(mode)
        sides = sides * 2 if len(sides) == 1 else sides
        if len(sides) != 2 or not set(sides) <= {*MODES, "both"}:
            raise ValueError(
                f"modes: got {mode!r}, need disc, gen, both, or two of them with a hyphen "
                "(queries first), such as gen-disc"
            )
        queries, candidates = (MODES if side == "both" else (side,) for side in sides)
        # the same mode on both sides first
        pairs += sorted(product(queries, candidates), key=lambda pair: pair[0] != pair[1])
    if not pairs:
        raise ValueError("modes: got none, need at least one of disc, gen, disc-gen, gen-disc")
    return list(dict.fromkeys(pairs))


def mode_name(pair: tuple[str, str]) -> str:
    """Column name of a pair: "gen" for ("gen", "gen"), "gen-disc" for a mix."""
    return pair[0] if pair[0] == pair[1] else "-".join(pair)
