"""What makes two prompts the same, and the visual features of media seen before."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from umer1.model.rope_index import rope_index
from umer1.model.sequence import Sequence, check_sequence


@dataclass(slots=True)
class PromptContent:
    """A prompt as the prefill wants it.

    positions: int64 [3, T], M-RoPE. next_position: of the token after the prompt. media: a key and
    the patches of each medium. features: [V, H] on the model's device, once they are computed.
    """

    sequence: Sequence
    positions: Tensor
    next_position: int
    disc_position: int | None
    media: list[tuple[bytes, Tensor, Tensor]]
    features: Tensor | None = None


def prompt_content(
    sequence: Sequence, disc_position: int | None, spatial_merge: int, name: str
) -> tuple[bytes, PromptContent]:
    """The prompt and the key of its content: ids, where media stand, their pixels and grids.

    Raises ValueError, naming the prompt, when ids, mask, grids and pixels do not agree or
    `disc_position` is not in it.
    """
    check_sequence(sequence, name)
    if disc_position is not None and not 0 <= disc_position < len(sequence):
        raise ValueError(
            f"{name}: disc_position is {disc_position}, wants a place in its {len(sequence)} tokens"
        )
    try:
        positions, after = rope_index(sequence.media_mask, sequence.grid_thw, spatial_merge)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    media = _media(sequence)
    digest = hashlib.sha256(repr(disc_position).encode())
    digest.update(_bytes(sequence.input_ids))
    digest.update(_bytes(sequence.media_mask))
    for key, *_ in media:
        digest.update(key)
    content = PromptContent(sequence, positions, after, disc_position, media)
    return digest.digest(), content


class FeatureCache:
    """Visual features by the key of their medium; least recently used ones go first."""

    def __init__(self, limit: int):
        self.limit = limit
        self.bytes = 0
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, key: bytes) -> Tensor | None:
        if key in self._features:
            self._features.move_to_end(key)
        return self._features.get(key)

    def put(self, key: bytes, features: Tensor) -> None:
        if features.nbytes > self.limit or key in self._features:
            return
        self._features[key] = features
        self.bytes += features.nbytes
        while self.bytes > self.limit:
            _, oldest = self._features.popitem(last=False)
            self.bytes -= oldest.nbytes

    def clear(self) -> None:
        self._features.clear()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._features)


def _media(sequence: Sequence) -> list[tuple[bytes, Tensor, Tensor]]:
    """(key, patches [P, patch_dim], grid [3]) of each medium, in order."""
    if sequence.pixel_values is None:
        return []
    pieces = sequence.pixel_values.split(sequence.grid_thw.prod(-1).tolist())
    return [
        (hashlib.sha256(_bytes(grid) + _bytes(patches)).digest(), patches, grid)
        for patches, grid in zip(pieces, sequence.grid_thw, strict=True)
    ]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
