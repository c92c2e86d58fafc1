"""Reading prompts: media through the vision tower, pieces of prompts through the decoder.

Shapes: T tokens of all pieces, V visual features, H hidden width, Hq and Hkv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from umer1.engine.memory import KVMemory, to_device
from umer1.engine.pages import pages_for
from umer1.engine.prefixes import FeatureCache, PromptContent
from umer1.engine.scheduler import Piece
from umer1.model.attention import PackedAttention
from umer1.model.qwen2_vl import Qwen2VL
from umer1_kernels import append_kv

_QUERY_BLOCK = 512  # rows of a later piece that share one mask
_TOWER_PATCHES = 32768  # in one pass of the vision tower: bounds its activations


@dataclass(slots=True)
class Prefilled:
    """What a prompt leaves beside its keys and values: the state of its last token [H], the M-RoPE
    position after it, and its disc vector, float32 [H], L2-normalised (None: not asked for)."""

    state: Tensor
    next_position: int
    disc: Tensor | None = None


@torch.no_grad()
def prefill(
    model: Qwen2VL,
    memory: KVMemory | None,
    pieces: list[Piece],
    cache: FeatureCache,
    backend: str = "auto",
) -> None:
    """One packed forward over `pieces`; a prompt that is whole after it has its `result`.

    `backend` writes the keys and values.

    Only the last layer's attention sees every token of a prompt to its end: its MLP and the final
    norm run for the states that are read.
    """
    contents: list[PromptContent] = [piece.prefix.content for piece in pieces]
    encode_media(model, contents, cache)
    device = model.device
    ids = torch.cat(
        [each.sequence.input_ids[start:stop] for each, (_, start, stop) in zip(contents, pieces)]
    )
    positions = torch.cat(
        [each.positions[:, start:stop] for each, (_, start, stop) in zip(contents, pieces)], dim=1
    )
    hidden = model.decoder.embed(to_device(ids, device))
    hidden = _put_features(hidden, contents, pieces)
    keep, readers = _states_to_read(contents, pieces)
    # a product of one row is summed in another order on some CPUs, one of no rows is an error
    keep += [0] * (2 - len(keep))
    if pieces[0].start:
        attend = LaterPieceAttention(pieces[0], memory, backend)
    else:
        head_size = model.config.head_dim
        attend = FirstPiecesAttention(pieces, memory, device, model.dtype, head_size, backend)
    keep = to_device(torch.tensor(keep), device)
    states = model.decoder(hidden, to_device(positions, device), attend, keep)
    for (prefix, content, kind), state in zip(readers, states):
        if prefix.result is None:
            prefix.result = Prefilled(state, content.next_position)
        if kind == "disc":
            prefix.result.disc = F.normalize(state.float(), dim=-1)
        else:
            prefix.result.state = state.clone()  # not a view that keeps all the others
    for piece in pieces:
        if piece.stop == piece.prefix.tokens:
            piece.prefix.content = None


@torch.no_grad()
def encode_media(model: Qwen2VL, contents: list[PromptContent], cache: FeatureCache) -> None:
    """Fill in the visual features of prompts that lack them: each distinct medium once."""
    wanting = [each for each in contents if each.media and each.features is None]
    found = {key: cache.get(key) for each in wanting for key, *_ in each.media}
    new = {
        key: (patches, grid)
        for each in wanting
        for key, patches, grid in each.media
        if found[key] is None
    }
    for batch in _tower_batches(new, together=model.device.type == "cuda"):
        pixels = torch.cat([patches for _, patches, _ in batch]).to(model.dtype)
        features = model.vision(
            to_device(pixels, model.device), torch.stack([g for *_, g in batch])
        )
        cells = [
            len(patches) // model.config.vision.spatial_merge_size**2 for _, patches, _ in batch
        ]
        for (key, *_), part in zip(batch, features.split(cells)):
            before = found[key]  # of the frames of a video that came in several batches
            found[key] = part if before is None else torch.cat([before, part])
    for key in new:
        found[key] = found[key].clone()  # not a view that keeps its whole batch
        cache.put(key, found[key])
    for each in wanting:
        each.features = torch.cat([found[key] for key, *_ in each.media])


def _tower_batches(
    media: dict[bytes, tuple[Tensor, Tensor]], together: bool
) -> Iterator[list[tuple[bytes, Tensor, Tensor]]]:
    """(key, patches, grid [3]) of media and of runs of frames, at most _TOWER_PATCHES at a time if
    a frame is smaller than that. A frame attends to itself alone, so nothing depends on the cuts.

    together: several media at a time, which a CPU has nothing from.
    """
    batch, size = [], 0
    for key, (patches, grid) in media.items():
        _, height, width = grid.tolist()
        frame = height * width
        for part in patches.split(max(1, _TOWER_PATCHES // frame) * frame):
            grid = torch.tensor([len(part) // frame, height, width])
            if batch and (not together or size + len(part) > _TOWER_PATCHES):
                yield batch
                batch, size = [], 0
            batch.append((key, part, grid))
            size += len(part)
    if batch:
        yield batch


def _put_features(hidden: Tensor, contents: list[PromptContent], pieces: list[Piece]) -> Tensor:
    """Visual features in place of the placeholders of these pieces."""
    places, features, offset = [], [], 0
    for content, (_, start, stop) in zip(contents, pieces):
        inside = content.sequence.media_mask[start:stop].nonzero()[:, 0]
        if len(inside):
            before = int(content.sequence.media_mask[:start].sum())
            features.append(content.features[before : before + len(inside)])
            places.append(inside + offset)
        offset += stop - start
    if not places:
        return hidden
    index = to_device(torch.cat(places), hidden.device)
    return hidden.index_copy(0, index, torch.cat(features))


def _states_to_read(contents: list[PromptContent], pieces: list[Piece]) -> tuple[list[int], list]:
    """Packed rows whose states somebody reads, and who: (prefix, content, "disc" or "last")."""
    keep, readers, offset = [], [], 0
    for content, (prefix, start, stop) in zip(contents, pieces):
        wanted = [("disc", content.disc_position), ("last", prefix.tokens - 1)]
        for kind, place in wanted:
            if place is not None and start <= place < stop:
                keep.append(offset + place - start)
                readers.append((prefix, content, kind))
        offset += stop - start
    return keep, readers


class FirstPiecesAttention(PackedAttention):
    """Whole prompts and first pieces: each attends to itself, and its keys and values go to its
    pages. Prompts that nobody continues have none."""

    def __init__(
        self,
        pieces: list[Piece],
        memory: KVMemory | None,
        device: torch.device,
        dtype: torch.dtype,
        head_size: int,
        backend: str,
    ):
        lengths = [piece.stop for piece in pieces]
        ends = torch.tensor([0, *lengths]).cumsum(0)
        ends = to_device(ends.int(), device)
        super().__init__(lengths, ends, dtype, shortest_in_group=1.0, head_size=head_size)
        self._write = _Writer(pieces, memory, device, backend)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._write(layer, key, value)
        return super().__call__(layer, query, key, value)


class LaterPieceAttention:
    """One later piece of a long prompt: it attends to the pages before it and to itself."""

    def __init__(self, piece: Piece, memory: KVMemory, backend: str):
        self.piece, self.memory = piece, memory
        device = memory.key.device
        self._write = _Writer([piece], memory, device, backend)
        self._pages = to_device(torch.tensor(piece.prefix.pages[: pages_for(piece.stop)]), device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._write(layer, key, value)
        start, stop, dtype = self.piece.start, self.piece.stop, query.dtype
        keys, values = (
            # [pages, Hkv, PAGE_LENGTH, D] -> [Hkv, tokens, D]
            store[layer][self._pages].transpose(0, 1).flatten(1, 2)[:, :stop]
            for store in (self.memory.key, self.memory.value)
        )
        query = query.transpose(0, 1)
        if query.device.type == "cpu":
            # as PackedAttention does: the CPU's 16-bit kernel rounds more
            query, keys, values = query.float(), keys.float(), values.float()
        blocks = []
        for first in range(start, stop, _QUERY_BLOCK):
            last = min(first + _QUERY_BLOCK, stop)
            rows = torch.arange(first, last, device=query.device)
            seen = torch.arange(last, device=query.device) <= rows[:, None]
            block = F.scaled_dot_product_attention(
                query[None, :, first - start : last - start],
                keys[None, :, :last],
                values[None, :, :last],
                attn_mask=seen,
                enable_gqa=query.shape[0] != keys.shape[0],
            )
            blocks.append(block[0].transpose(0, 1).to(dtype))
        return torch.cat(blocks)


class _Writer:
    """Writes the keys and values of packed rows to the pages of their prompts."""

    def __init__(
        self, pieces: list[Piece], memory: KVMemory | None, device: torch.device, backend: str
    ):
        self.memory, self.backend = memory, backend
        width = max(len(piece.prefix.pages) for piece in pieces)
        if not width:
            self.memory = None
            return
        table = [each.prefix.pages + [0] * (width - len(each.prefix.pages)) for each in pieces]
        # a place below 0 is not written
        places = [
            torch.arange(start, stop) if prefix.pages else torch.full((stop - start,), -1)
            for prefix, start, stop in pieces
        ]
        sizes = torch.tensor([piece.stop - piece.start for piece in pieces])
        rows = torch.arange(len(pieces)).repeat_interleave(sizes)
        self._table, self._places, self._rows = (
            to_device(each.int(), device) for each in (torch.tensor(table), torch.cat(places), rows)
        )

    def __call__(self, layer: int, key: Tensor, value: Tensor) -> None:
        if self.memory is None:
            return
        keys, values = self.memory.key[layer], self.memory.value[layer]
        append_kv(
            key, value, keys, values, self._table, self._places,
            table_row=self._rows, backend=self.backend,
        )  # fmt: skip
