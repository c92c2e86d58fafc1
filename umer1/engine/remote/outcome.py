"""What the tokens of one row say about it, whoever wrote them: the rules of `Sampling.stop` and
`max_think_tokens` after the fact."""

from __future__ import annotations

from typing import NamedTuple

from umer1.engine.requests import Sampling, SpecialTokens


class Outcome(NamedTuple):
    """tokens: those that count. read: which of them is the input of the state that gives the vector
    (-1: the prompt's last token). hit, finish: see `Rollout`."""

    tokens: list[int]
    read: int
    hit: bool
    finish: str


def outcome(written: list[int], special: SpecialTokens, sampling: Sampling) -> Outcome | None:
    """How a row ended that wrote `written`, or None if it has not. What stands after the end is
    dropped."""
    for place, token in enumerate(written):
        if token == special.gen_id and sampling.stop == "first":
            return Outcome(written[: place + 1], place, True, "gen_emb")
        full = place + 1 == sampling.max_new_tokens
        if token != special.eos_id and not full:
            continue
        tokens = written[: place + 1]
        hits = [where for where, each in enumerate(tokens) if each == special.gen_id]
        finish = "length" if token != special.eos_id else "gen_emb" if hits else "eos"
        # without a hit: the state that wrote the last token
        return Outcome(tokens, hits[-1] if hits else place - 1, bool(hits), finish)
    return None


def rest_of_tag(written: list[int], special: SpecialTokens) -> tuple[int, ...]:
    """The tokens of `</think>` that are missing after `written`; none where thinking has ended.

    The tag's last token may merge with what follows (">" and a line break): after all but the last,
    any token ends the thinking.
    """
    ends, seen = special.think_end, 0
    for token in written:
        if seen == len(ends):
            break
        if token == ends[seen]:
            seen += 1
        elif len(ends) > 1 and seen == len(ends) - 1:
            seen = len(ends)
        else:
            seen = int(token == ends[0])
    return ends[seen:]
