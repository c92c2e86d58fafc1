"""Encoded prompts and their packed form.

Shapes: T tokens, B sequences, M media, P patches, V visual features (P / spatial_merge**2).
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from umer1.model.rope_index import rope_index


@dataclass(slots=True)
class Sequence:
    """One encoded prompt, or prompt and response, on the CPU.

    Only the processor sets `media_mask`: a placeholder id that a model samples is text.
    """

    input_ids: Tensor
    """int64 [T]"""
    media_mask: Tensor
    """bool [T]; True where a visual feature replaces the token embedding"""
    pixel_values: Tensor | None
    """float32 [P, in_channels * temporal_patch * patch * patch], all media in order of appearance"""
    grid_thw: Tensor
    """int64 [M, 3], patches of each medium in time, height and width, images and videos alike"""

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def extend(self, ids: Tensor | SequenceOf[int]) -> Sequence:
        """A new sequence with `ids` appended as text."""
        ids = torch.as_tensor(ids, dtype=torch.int64)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, ids]),
            media_mask=torch.cat([self.media_mask, torch.zeros(len(ids), dtype=torch.bool)]),
        )

    def head(self, count: int) -> Sequence:
        """The first `count` tokens; the whole sequence if a medium reaches beyond them."""
        if bool(self.media_mask[count:].any()):
            return self
        return replace(self, input_ids=self.input_ids[:count], media_mask=self.media_mask[:count])


@dataclass(slots=True)
class Packed:
    """Several sequences back to back, without padding."""

    input_ids: Tensor
    """int64 [T]"""
    position_ids: Tensor
    """int64 [3, T], M-RoPE positions (time, height, width)"""
    cu_seqlens: Tensor
    """int32 [B + 1]"""
    lengths: list[int]
    media_index: Tensor
    """int64 [V], packed positions of the visual features"""
    pixel_values: Tensor | None
    """[P, patch_dim]"""
    grid_thw: Tensor
    """int64 [M, 3]; stays on the CPU, where the attention plan is made"""
    next_position: Tensor
    """int64 [B], the M-RoPE position (equal on all three axes) of the token after each sequence"""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Packed:
        """On `device`; `dtype` is that of the pixel values."""
        pixels = self.pixel_values
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            media_index=self.media_index.to(device, non_blocking=True),
            next_position=self.next_position.to(device, non_blocking=True),
            pixel_values=None if pixels is None else pixels.to(device, dtype, non_blocking=True),
        )


def pack(sequences: list[Sequence], spatial_merge: int = 2) -> Packed:
    """Packs sequences in the order given.

    Raises ValueError, naming the sequence, when one is empty or its placeholders, grids and
    patches do not agree.
    """
    if not sequences:
        raise ValueError("sequences is empty, want at least one")
    positions, following, lengths, pixels = [], [], [], []
    for number, sequence in enumerate(sequences):
        check_sequence(sequence, f"sequence {number}")
        try:
            ids, after = rope_index(sequence.media_mask, sequence.grid_thw, spatial_merge)
        except ValueError as error:
            raise ValueError(f"sequence {number}: {error}") from None
        positions.append(ids)
        following.append(after)
        lengths.append(len(sequence))
        if sequence.pixel_values is not None:
            pixels.append(sequence.pixel_values)
    ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    return Packed(
        input_ids=torch.cat([sequence.input_ids for sequence in sequences]),
        position_ids=torch.cat(positions, dim=1),
        cu_seqlens=ends.to(torch.int32),
        lengths=lengths,
        media_index=torch.cat([sequence.media_mask for sequence in sequences]).nonzero()[:, 0],
        pixel_values=torch.cat(pixels) if pixels else None,
        grid_thw=torch.cat([sequence.grid_thw for sequence in sequences]),
        next_position=torch.tensor(following, dtype=torch.int64),
    )


def check_sequence(sequence: Sequence, where: str) -> None:
    """ValueError, starting with `where`, unless mask, grids and patches agree with the ids."""
    if len(sequence) == 0:
        raise ValueError(f"{where}: input_ids is empty, want at least one token")
    if sequence.media_mask.shape != sequence.input_ids.shape:
        raise ValueError(
            f"{where}: media_mask has shape {tuple(sequence.media_mask.shape)}, "
            f"want that of input_ids {tuple(sequence.input_ids.shape)}"
        )
    patches = 0 if sequence.pixel_values is None else sequence.pixel_values.shape[0]
    expected = int(sequence.grid_thw.prod(-1).sum())
    if patches != expected:
        raise ValueError(
            f"{where}: pixel_values has {patches} patches, want {expected} as grid_thw "
            f"{sequence.grid_thw.tolist()} says"
        )
