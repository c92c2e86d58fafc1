"""Token ids to text while they are written: no character comes out in halves.

    stream = TextStream(processor.decode)
    for token in tokens:
        send(stream.push(token))
    send(stream.end())

What was sent, joined, is `processor.decode(tokens)`.
"""

from __future__ import annotations

from collections.abc import Callable

# what a decoder writes for bytes that are no character, or not yet one
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Args: decode, ids to text, whose bytes of several tokens may make up one character."""

    def __init__(self, decode: Callable[[list[int]], str]):
        self._decode = decode
        self._held: list[int] = []  # since the text was last whole
        self._sent = 0  # characters of theirs

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character is incomplete."""
        self._held.append(token)
        text = self._decode(self._held)
        if not text.endswith(_REPLACEMENT):
            return self._release(text)
        # an unfinished character shows as one replacement at the end: what is before it stays
        piece = text[self._sent : -1]
        self._sent = len(text) - 1
        return piece

    def end(self) -> str:
        """What was held back, as it is."""
        return self._release(self._decode(self._held))

    def _release(self, text: str) -> str:
        piece = text[self._sent :]
        self._held, self._sent = [], 0
        return piece
