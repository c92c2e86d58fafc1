"""How a decoder layer attends: over packed sequences, over a prompt that fills the cache, or one
query per slot against the cache.

A layer calls `attend(layer, query, key, value)` with RoPE already applied:
query [T, Hq, D], key and value [T, Hkv, D] -> [T, Hq, D].
Shapes: T packed tokens, B sequences or rows, Hq query heads, Hkv key-value heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from umer1.model.kv_cache import KVCache
from umer1.model.row_groups import RowGroups

__all__ = ["DecodeAttention", "KVCache", "PackedAttention", "PrefillAttention"]

# Sequences at least this part of the longest one are padded to it: measured on the CPU, forward
# and backward, 100 sequences of 40 to 120 tokens.
_SHORTEST_IN_GROUP = 0.9


class PackedAttention:
    """Every sequence attends to itself: causally, or fully when `causal` is False.

    `backend` names what runs: "varlen_attn" or "flash_attn" (CUDA, 16-bit), otherwise "sdpa" over
    sequences grouped by length.
    """

    def __init__(
        self,
        lengths: list[int],
        cu_seqlens: Tensor,
        dtype: torch.dtype = torch.float32,
        causal: bool = True,
    ) -> None:
        self.lengths = lengths
        self.cu_seqlens = cu_seqlens
        self.causal = causal
        self.backend = packed_backend(cu_seqlens.device, dtype)
        if self.backend == "sdpa":
            shortest = _SHORTEST_IN_GROUP if causal else 1.0
            self._groups = RowGroups(lengths, cu_seqlens.device, shortest)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.backend == "sdpa":
            return self._grouped(query, key, value)
        longest = max(self.lengths)
        if self.backend == "varlen_attn":
            from torch.nn.attention.varlen import varlen_attn

            group = query.shape[1] // key.shape[1]
            # torch 2.11 has no grouped-query flag here.
            key = key.repeat_interleave(group, dim=1) if group > 1 else key
            value = value.repeat_interleave(group, dim=1) if group > 1 else value
            window = (-1, 0) if self.causal else (-1, -1)
            return varlen_attn(
                query, key, value, self.cu_seqlens, self.cu_seqlens, longest, longest,
                window_size=window,
            )  # fmt: skip
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(
            query, key, value, self.cu_seqlens, self.cu_seqlens, longest, longest,
            causal=self.causal,
        )  # fmt: skip

    def _grouped(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        groups = self._groups
        dtype = query.dtype
        if query.device.type == "cpu" and dtype != torch.float64:
            # The CPU's 16-bit kernel takes four times as long backward, and rounds more.
            query, key, value = query.float(), key.float(), value.float()
        query, key, value = (groups.pad(rows) for rows in (query, key, value))
        # Split, not sliced: the gradient of a slice is a full-size tensor of zeros.
        sizes = [count * length for count, length in groups.rectangles]
        results = []
        for (count, length), *parts in zip(
            groups.rectangles, query.split(sizes), key.split(sizes), value.split(sizes), strict=True
        ):
            shaped = [rows.unflatten(0, (count, length)).transpose(1, 2) for rows in parts]
            result = F.scaled_dot_product_attention(
                *shaped, is_causal=self.causal, enable_gqa=query.shape[1] != key.shape[1]
            )
            results.append(result.transpose(1, 2).flatten(0, 1))
        result = results[0] if len(results) == 1 else torch.cat(results)
        return groups.unpad(result).to(dtype)


class PrefillAttention(PackedAttention):
    """Packed causal attention that also writes sequence b's keys and values to slot slots[b]."""

    def __init__(
        self, lengths: list[int], cu_seqlens: Tensor, cache: KVCache, slots: list[int]
    ) -> None:
        super().__init__(lengths, cu_seqlens, cache.key.dtype, causal=True)
        if len(slots) != len(lengths):
            raise ValueError(
                f"slots has {len(slots)} entries, want one per sequence ({len(lengths)})"
            )
        if max(lengths) > cache.max_length:
            raise ValueError(
                f"a prompt of {max(lengths)} tokens does not fit a cache of {cache.max_length}"
            )
        device = cu_seqlens.device
        self.cache = cache
        self._slots = torch.tensor(slots, dtype=torch.int64, device=device)
        sizes = torch.tensor(lengths, dtype=torch.int64, device=device)
        self._row_slot = self._slots.repeat_interleave(sizes)
        starts = cu_seqlens[:-1].to(torch.int64).repeat_interleave(sizes)
        self._row_position = torch.arange(sum(lengths), device=device) - starts

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        for store, rows in ((self.cache.key, key), (self.cache.value, value)):
            # Whatever the slots held must not reach the padding that decoding multiplies by zero.
            store[layer].index_fill_(0, self._slots, 0)
            store[layer][self._row_slot, :, self._row_position] = rows.detach()
        return super().__call__(layer, query, key, value)


class DecodeAttention:
    """One new token per row: writes its key and value to the cache and attends to the row's past.

    slots: the cache slot of each row, a list (rows 0, 1, 2, ... read the cache without a copy) or
    an int64 tensor [B].
    lengths: int64 [B], tokens each slot holds before this step.
    extent: an upper bound of lengths + 1, needed on CUDA to avoid waiting for the device.
    """

    backend = "sdpa"

    def __init__(
        self,
        cache: KVCache,
        slots: list[int] | Tensor,
        lengths: Tensor,
        extent: int | None = None,
    ) -> None:
        device = cache.key.device
        self.cache = cache
        self.lengths = lengths.to(device)
        self.extent = int(lengths.max()) + 1 if extent is None else extent
        if self.extent > cache.max_length:
            raise ValueError(
                f"decoding token {self.extent} does not fit a cache of {cache.max_length} tokens"
            )
        self._in_order = isinstance(slots, list) and slots == list(range(len(slots)))
        self._slots = torch.as_tensor(slots, dtype=torch.int64, device=device)
        visible = torch.arange(self.extent, device=device) <= self.lengths[:, None]
        self._mask = visible[:, None, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, size = query.shape
        keys, values = self.cache.key[layer], self.cache.value[layer]
        keys[self._slots, :, self.lengths] = key
        values[self._slots, :, self.lengths] = value
        keys, values = (self._select(store) for store in (keys, values))
        # The query heads that share a key-value head are the "queries" of that head.
        grouped = query.view(rows, key.shape[1], heads // key.shape[1], size)
        result = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=self._mask)
        return result.reshape(rows, heads, size)

    def _select(self, store: Tensor) -> Tensor:
        """[slots, Hkv, max_length, D] -> [B, Hkv, extent, D]."""
        if self._in_order:
            return store[: len(self._slots), :, : self.extent]
        return store[:, :, : self.extent].index_select(0, self._slots)


def packed_backend(device: torch.device, dtype: torch.dtype) -> str:
    """What PackedAttention runs on: see its docstring."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "sdpa"
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401

        return "varlen_attn"
    except ImportError:
        pass
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: F401

        return "flash_attn"
    except ImportError:
        return "sdpa"
