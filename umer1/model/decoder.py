"""The decoder: token states in, states after the final norm out.

Shapes: T tokens, H hidden width, Hq query heads, Hkv key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umer1.model.config import ModelConfig
from umer1.model.fused import RMSNorm, add_rowwise_, swiglu
from umer1.model.rotary import decoder_rotation, rotate_heads

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False

    def forward(
        self, hidden: Tensor, position_ids: Tensor, attend: Attend, keep: Tensor | None = None
    ) -> Tensor:
        """hidden [T, H], position_ids int64 [3, T] or [T] -> [T, H] after the final norm.

        keep: int64 [K], the rows whose states are wanted: the result is theirs, [K, H].
        """
        config = self.config
        rotation = decoder_rotation(
            position_ids, config.head_dim, config.rope_theta, config.mrope_section
        )
        for layer in self.layers:
            kept = keep if layer is self.layers[-1] else None
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, rotation, attend, kept, use_reentrant=False)
            else:
                hidden = layer(hidden, rotation, attend, kept)
        return self.norm(hidden)


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.query_heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads
        width = config.hidden_size
        self.input_norm = RMSNorm(width, eps=config.rms_norm_eps)
        # Rows: query heads, key heads, value heads.
        fused = (self.query_heads + 2 * self.key_heads) * config.head_dim
        self.qkv = nn.Linear(width, fused)
        self.output = nn.Linear(self.query_heads * config.head_dim, width, bias=False)
        self.post_norm = RMSNorm(width, eps=config.rms_norm_eps)
        # Rows: gate, up.
        self.gate_up = nn.Linear(width, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(
        self, hidden: Tensor, rotation: Tensor, attend: Attend, keep: Tensor | None = None
    ) -> Tensor:
        """After attention nothing but the rows `keep` goes on."""
        queries, keys = self.query_heads, self.key_heads
        qkv = self.qkv(self.input_norm(hidden)).unflatten(1, (queries + 2 * keys, -1))
        qkv = rotate_heads(qkv, queries + keys, rotation)
        attended = attend(self.layer, *qkv.split([queries, keys, keys], dim=1))
        if keep is not None:
            hidden, attended = hidden.index_select(0, keep), attended.index_select(0, keep)
        hidden = hidden + self.output(attended.flatten(1))
        return add_rowwise_(hidden, self._feed_forward)

    def _feed_forward(self, rows: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(self.post_norm(rows))))

    def residual_outputs(self) -> tuple[nn.Linear, nn.Linear]:
        """The two products that are added to the residual stream."""
        return self.output, self.down
