"""Keys and values of the tokens seen so far, one slot per sequence.

Shapes: L layers, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1.model.config import ModelConfig


class KVCache:
    """`key` and `value`, [L, slots, Hkv, max_length, D].

    A slot is finite over its whole length from the moment a prompt is written into it, whatever
    the memory held before: attention multiplies the padding by zero, and zero times NaN is NaN.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (
            config.num_hidden_layers,
            slots,
            config.num_key_value_heads,
            max_length,
            config.head_dim,
        )
        self.key = torch.zeros(shape, dtype=dtype, device=device)
        self.value = torch.zeros(shape, dtype=dtype, device=device)
        self.slots = slots
        self.max_length = max_length

    def copy(self, source: int, targets: list[int] | Tensor, length: int) -> None:
        """Copies the first `length` tokens of slot `source` to the slots `targets`."""
        targets = torch.as_tensor(targets, dtype=torch.int64, device=self.key.device)
        for store in (self.key, self.value):
            store[:, targets, :, :length] = store[:, source, :, :length].unsqueeze(1)
            store[:, targets, :, length:] = 0
