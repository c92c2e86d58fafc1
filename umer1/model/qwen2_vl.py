"""Qwen2-VL: a vision tower and a decoder over packed sequences.

Shapes: T packed tokens, B sequences, H hidden width, V visual features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umer1.model.attention import PackedAttention, compute_dtype
from umer1.model.config import ModelConfig
from umer1.model.decoder import Attend, Decoder
from umer1.model.learned_rows import LearnedRows
from umer1.model.sequence import Packed
from umer1.model.vision import VisionTower


class Qwen2VL(nn.Module):
    """`vision` and `decoder` can be used and replaced apart. `head` is None when tied."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.decoder = Decoder(config)
        self.head = (
            None
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.register_module("packed_head", None)  # packed_weights puts a tied head's copy here
        self.always_see = False  # training on text alone runs the vision tower too: see embed

    def forward(
        self, packed: Packed, attend: Attend | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Hidden states after the final norm, [T, H]; [K, H] with `keep`.

        attend: how the layers attend, default PackedAttention.
        keep: int64 [K], different positions whose states are wanted: the last layer spares the others.
        """
        if attend is None:
            dtype = compute_dtype(self.decoder.norm.weight)
            attend = PackedAttention(
                packed.lengths, packed.cu_seqlens, dtype, head_size=self.config.head_dim
            )
        return self.decoder(self.embed(packed), packed.position_ids, attend, keep)

    def decode(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """One token per row: ids int64 [B] at M-RoPE positions int64 [B] -> [B, H]."""
        return self.decoder(self.decoder.embed(input_ids), positions, attend)

    def embed(self, packed: Packed) -> Tensor:
        """Token embeddings with the visual features in place of the placeholders, [T, H].

        With `always_see` a blank cell goes through the tower in training where there is no medium,
        and counts nothing: of several processes each takes part in the tower's exchanges.
        """
        hidden = self.decoder.embed(packed.input_ids)
        # the residual stream as if the weights were autocast's
        hidden = hidden.to(compute_dtype(self.decoder.norm.weight))
        if packed.pixel_values is None:
            if not (self.always_see and self.training):
                return hidden
            return hidden + self._see_nothing()
        features = self.vision(packed.pixel_values, packed.grid_thw)
        return hidden.index_copy(0, packed.media_index, features)

    def _see_nothing(self) -> Tensor:
        """Zero, by way of the vision tower: with gradients of zero, and the exchanges between processes."""
        config, merge = self.config.vision, self.config.vision.spatial_merge_size
        pixels = torch.zeros(merge * merge, config.patch_dim, device=self.device)
        return 0.0 * self.vision(pixels, torch.tensor([[1, merge, merge]])).sum()

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., vocab_size]."""
        head = self.head or self.packed_head
        if head is None:
            return F.linear(hidden, self.head_weight).float()
        packed = getattr(head, "float32", None)  # a Linear layer has only its own dtype
        return head(hidden).float() if packed is None else packed(hidden)

    @property
    def head_owner(self) -> nn.Module:
        """The module whose weight projects to the vocabulary: the embedding table when tied."""
        return self.decoder.embed if self.head is None else self.head

    @property
    def head_weight(self) -> Tensor:
        """[vocab_size, H], with the rows that are learnt beside it, see learned_rows.py."""
        owner = self.head_owner
        return owner.whole() if isinstance(owner, LearnedRows) else owner.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.norm.weight.device

    @property
    def gradient_checkpointing(self) -> bool:
        """Recompute each layer in the backward pass instead of keeping its activations."""
        return self.decoder.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        self.decoder.gradient_checkpointing = enabled
        self.vision.gradient_checkpointing = enabled

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> Qwen2VL:
        """Random weights for training from scratch.

        Normal with the config's initializer_range; the layers that write to the residual stream
        are divided by the square root of their number, so depth does not grow its variance.
        """
        spread = self.config.initializer_range
        _initialise(self.vision.patch_embed, spread, generator)
        _initialise(self.vision.merger, spread, generator)
        _initialise(self.decoder.embed, spread, generator)
        _initialise(self.decoder.norm, spread, generator)
        if self.head is not None:
            _initialise(self.head, spread, generator)
        for layers in (self.vision.blocks, self.decoder.layers):
            _initialise(layers, spread, generator)
            for layer in layers:
                for module in layer.residual_outputs():
                    module.weight.div_((2 * len(layers)) ** 0.5)
        return self


def _initialise(module: nn.Module, spread: float, generator: torch.Generator | None) -> None:
    """Matrices normal with standard deviation `spread`, biases zero, norms one."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, spread, generator=generator)
