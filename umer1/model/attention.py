"""How a decoder layer attends over packed sequences.

A layer calls `attend(layer, query, key, value)` with RoPE already applied:
query [T, Hq, D], key and value [T, Hkv, D] -> [T, Hq, D].
Shapes: T packed tokens, B sequences or rows, Hq query heads, Hkv key-value heads, D head size.
"""

from __future__ import annotations

import inspect
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from umer1.model.row_groups import RowGroups
from umer1_kernels.inference import BF16_COMPILED, packed_attention

# Sequences at least this part of the longest one are padded to it: measured on the CPU, forward
# and backward, 100 sequences of 40 to 120 tokens.
_SHORTEST_IN_GROUP = 0.9


class PackedAttention:
    """Every sequence attends to itself: causally, or fully when `causal` is False.

    `backend` names what runs: "flash_attn" or "varlen_attn" (CUDA, 16-bit, head sizes that are
    multiples of 8), "umer1" (bfloat16 on a CPU that multiplies it, without gradients), otherwise
    "sdpa" over sequences grouped by length: `shortest_in_group` is the least length in a group as a
    part of its longest (1.0: nothing is padded, and no sequence's result depends on another).
    """

    def __init__(
        self,
        lengths: list[int],
        cu_seqlens: Tensor,
        dtype: torch.dtype = torch.float32,
        causal: bool = True,
        shortest_in_group: float = _SHORTEST_IN_GROUP,
        head_size: int | None = None,
    ) -> None:
        self.lengths = lengths
        self.cu_seqlens = cu_seqlens
        self.causal = causal
        self.backend = packed_backend(cu_seqlens.device, dtype, head_size)
        if self.backend == "sdpa":
            shortest = shortest_in_group if causal else 1.0
            self._groups = RowGroups(lengths, cu_seqlens.device, shortest)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.backend == "sdpa":
            return self._grouped(query, key, value)
        if self.backend == "umer1":
            return packed_attention(query, key, value, self.cu_seqlens, causal=self.causal)
        longest = max(self.lengths)
        if self.backend == "flash_attn":
            from flash_attn import flash_attn_varlen_func

            return flash_attn_varlen_func(
                query, key, value, self.cu_seqlens, self.cu_seqlens, longest, longest,
                causal=self.causal,
            )  # fmt: skip
        from torch.nn.attention.varlen import varlen_attn

        options = {"window_size": (-1, 0) if self.causal else (-1, -1)}
        group = query.shape[1] // key.shape[1]
        if group > 1 and _varlen_groups():
            options["enable_gqa"] = True
        elif group > 1:
            key, value = (each.repeat_interleave(group, dim=1) for each in (key, value))
        return varlen_attn(
            query, key, value, self.cu_seqlens, self.cu_seqlens, longest, longest, **options
        )

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


def packed_backend(device: torch.device, dtype: torch.dtype, head_size: int | None = None) -> str:
    """What PackedAttention runs on: see its docstring. head_size: None for a multiple of 8."""
    if device.type == "cpu" and dtype == torch.bfloat16 and not torch.is_grad_enabled():
        return "umer1" if BF16_COMPILED else "sdpa"
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return "sdpa"
    if head_size is not None and head_size % 8:
        return "sdpa"
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: F401

        return "flash_attn"
    except ImportError:
        pass
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401

        return "varlen_attn"
    except ImportError:
        return "sdpa"


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What products with this weight are made in: autocast's dtype where that is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


@cache
def _varlen_groups() -> bool:
    """Whether torch's varlen_attn takes fewer key than query heads; torch 2.11 does not."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
