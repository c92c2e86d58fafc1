"""Pairs of embedding modes, one for queries and one for candidates."""

from collections.abc import Iterable

MODES = ("disc", "gen")


def parse_modes(modes: str | Iterable[str | tuple[str, str]]) -> list[tuple[str, str]]:
    """(query mode, candidate mode) pairs from "disc", "gen", "gen-disc" or ("gen", "disc"), without
    repeats.
    """
    listed = modes.split(",") if isinstance(modes, str) else list(modes)
    pairs = []
    for mode in listed:
        pair = tuple(mode.split("-")) if isinstance(mode, str) else tuple(mode)
        pair = pair * 2 if len(pair) == 1 else pair
        if len(pair) != 2 or not set(pair) <= set(MODES):
            raise ValueError(
                f"modes: got {mode!r}, need disc, gen, disc-gen or gen-disc (queries first)"
            )
        pairs.append(pair)
    if not pairs:
        raise ValueError("modes: got none, need at least one of disc, gen, disc-gen, gen-disc")
    return list(dict.fromkeys(pairs))


def mode_name(pair: tuple[str, str]) -> str:
    """Column name of a pair: "gen" for ("gen", "gen"), "gen-disc" for a mix."""
    return pair[0] if pair[0] == pair[1] else "-".join(pair)
