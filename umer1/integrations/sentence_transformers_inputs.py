"""What sentence-transformers hands over, as items; and prompts as the padded tensors it moves around.

Shapes: B rows, T tokens of the longest, M media, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence as List
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modality import infer_modality
from torch import Tensor

from umer1.model.sequence import Sequence
from umer1.prompts import Item, parse_item

MODALITIES = ["text", "image", "video", "message"]
_NO_MEDIA = torch.zeros(0, 3, dtype=torch.int64)


def as_item(given: Any, prompt: str, where: str) -> Item:
    """An input of sentence-transformers as an `Item`, `prompt` directly before its text.

    A string is text, unless it is the path or URL of an image or a video: the library's own rule.
    Arrays and tensors are images [H, W, 3] or [3, H, W] and clips of such frames, uint8.

    Raises ValueError or TypeError that starts with `where`.
    """
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], str):
        raise TypeError(f"{where}: is a pair of texts, wants one input; pairs are for rerankers")
    if isinstance(given, (str, np.ndarray, torch.Tensor)) or _is_clip(given):
        given = {infer_modality(given, MODALITIES): given}
    if isinstance(given, dict) and "role" not in given:
        given = {key: _plain(value) for key, value in given.items()}
        if given.keys() == {"image", "video"} or given.keys() == {"text", "image", "video"}:
            raise ValueError(f"{where}: has an image and a video, wants chat messages to mix them")
    item = parse_item(given, where)
    return _prepended(item, prompt) if prompt else item


def features_of(sequences: List[Sequence], pad_id: int) -> dict[str, Tensor]:
    """B prompts as tensors whose names and shapes the library's losses know how to cut into rows.

    input_ids int64, attention_mask int64 and media_mask bool [B, T], padded on the right;
    num_images_per_sample int64 [B] (images and videos); with media also pixel_values [P, patch_dim]
    and image_grid_thw int64 [M, 3].
    """
    media = [sequence for sequence in sequences if sequence.pixel_values is not None]
    features = {
        "input_ids": padded([sequence.input_ids for sequence in sequences], pad_id),
        "attention_mask": padded([torch.ones_like(each.input_ids) for each in sequences], 0),
        "media_mask": padded([sequence.media_mask for sequence in sequences], False),
        "num_images_per_sample": torch.tensor([len(sequence.grid_thw) for sequence in sequences]),
    }
    if media:
        features["pixel_values"] = torch.cat([sequence.pixel_values for sequence in media])
        features["image_grid_thw"] = torch.cat([sequence.grid_thw for sequence in media])
    return features


def sequences_of(features: dict[str, Tensor]) -> list[Sequence]:
    """`features_of` undone, on the CPU: the engine keys what it caches by content."""
    lengths = features["attention_mask"].sum(1).tolist()
    ids, masks = features["input_ids"].cpu(), features["media_mask"].cpu()
    counts = features["num_images_per_sample"].tolist()
    grids, pixels = features.get("image_grid_thw", _NO_MEDIA).cpu(), features.get("pixel_values")
    grids = grids.split(counts)
    if pixels is not None:
        pixels = pixels.cpu().split([int(grid.prod(-1).sum()) for grid in grids])
    return [
        Sequence(ids[row, :length], masks[row, :length], pixels[row] if count else None, grids[row])
        for row, (length, count) in enumerate(zip(lengths, counts, strict=True))
    ]


def padded(rows: List[Tensor], value: int | bool) -> Tensor:
    """[B, T], filled up on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def _is_clip(given: Any) -> bool:
    """Frames with what is known about them, as transformers' video loaders give them."""
    return isinstance(given, dict) and "array" in given and "video_metadata" in given


def _plain(value: Any) -> Any:
    """Arrays with the channels last; a clip as its frames."""
    if _is_clip(value):
        value = value["array"]
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    if isinstance(value, np.ndarray) and value.ndim in (3, 4) and value.shape[-1] not in (1, 3, 4):
        value = np.moveaxis(value, -3, -1)
    return value


def _prepended(item: Item, prompt: str) -> Item:
    layout = list(item.layout)
    first = next((place for place, part in enumerate(layout) if isinstance(part, str)), None)
    if first is not None:
        layout[first] = prompt + layout[first]
    elif layout:
        layout.append(prompt)
    return replace(item, text=prompt + item.text, layout=tuple(layout))
