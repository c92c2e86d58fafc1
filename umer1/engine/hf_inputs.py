"""Prompts as transformers' Qwen2-VL takes them: padded on the left, images and videos apart."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from umer1.model.sequence import Sequence


def model_inputs(model: nn.Module, sequences: list[Sequence], *, pad_id: int) -> dict[str, Any]:
    """Keyword arguments of forward and generate() for B prompts, on the model's device.

    pad_id: any token that is no placeholder.
    """
    device = next(model.parameters()).device
    merge = model.config.vision_config.spatial_merge_size
    length = max(map(len, sequences))
    shape = (len(sequences), length)
    ids = torch.full(shape, pad_id)
    attended, types = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int32)
    media: dict[str, list[tuple[Tensor, Tensor]]] = {"image": [], "video": []}
    for row, sequence in enumerate(sequences):
        padding = length - len(sequence)
        ids[row, padding:] = sequence.input_ids
        attended[row, padding:] = 1
        for kind, cells, patches, grid in _media_of(sequence, model.config.video_token_id, merge):
            media[kind].append((patches, grid))
            types[row, padding + cells] = 1 if kind == "image" else 2
    inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": attended.to(device)}
    # required with media since transformers 5, unknown before
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["mm_token_type_ids"] = types.to(device)
    names = {"image": "pixel_values", "video": "pixel_values_videos"}
    for kind, found in media.items():
        if found:
            inputs[names[kind]] = torch.cat([patches for patches, _ in found]).to(device)
            inputs[f"{kind}_grid_thw"] = torch.stack([grid for _, grid in found]).to(device)
    return inputs


def _media_of(
    sequence: Sequence, video_id: int, merge: int
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Kind, placeholder positions int64 [cells], patches and grid of each medium."""
    if sequence.pixel_values is None:
        return
    sizes = sequence.grid_thw.prod(-1)
    places = sequence.media_mask.nonzero()[:, 0].split((sizes // merge**2).tolist())
    for cells, patches, grid in zip(
        places, sequence.pixel_values.split(sizes.tolist()), sequence.grid_thw
    ):
        video = int(sequence.input_ids[cells[0]]) == video_id
        yield ("video" if video else "image"), cells, patches, grid
