"""Single rows of a frozen table that are learnt: the embedding tokens', where LoRA trains the rest.

A difference [R, H], zero at the start, is added to the rows where the table is read; the table keeps its bits. With a
tied head one difference serves both; a head of its own has its own.

Legend: R rows learnt, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umer1.model.attention import compute_dtype


class LearnedRows(nn.Module):
    """What LearnedTable and LearnedHead share.

    Attributes:
        rows: their numbers.
        lora_rows: the difference, named as PEFT names what is an adapter's.
        enabled: False reads the table as if nothing were learnt.
    """

    weight: nn.Parameter
    numbers: Tensor

    def _learn(self, weight: nn.Parameter, rows: Sequence[int]) -> None:
        self.weight, self.rows, self.enabled = weight.requires_grad_(False), tuple(rows), True
        # on the weight's device once: made anew, every read would wait for a copy to the GPU
        numbers = torch.tensor(self.rows, device=weight.device)
        self.register_buffer("numbers", numbers, persistent=False)
        self.lora_rows = nn.Parameter(weight.new_zeros(len(self.rows), weight.shape[1]))

    def learned(self) -> Tensor:
        """The rows as they are now, [R, H]."""
        return self.weight[self.numbers] + self.lora_rows

    def whole(self) -> Tensor:
        """[V, H] with the learned rows, in autocast's dtype where that is on: a copy while they are enabled."""
        if not self.enabled:
            return self.weight
        dtype = compute_dtype(self.weight)
        copy = self.weight.detach().to(dtype, copy=True)
        return copy.index_copy_(0, self.numbers, self.learned().to(dtype))

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Puts [R, H] into the table itself."""
        self.weight[self.numbers] = rows


class LearnedTable(nn.Embedding, LearnedRows):
    """An embedding table some of whose rows are learnt."""

    def __init__(self, table: nn.Embedding, rows: Sequence[int]) -> None:
        super().__init__(*table.weight.shape, _weight=table.weight.detach())
        self._learn(table.weight, rows)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = super().forward(ids)
        if not self.enabled:
            return hidden
        # place 0 is every other token's
        place = sum((ids == row) * place for place, row in enumerate(self.rows, 1))
        return hidden + F.embedding(place, F.pad(self.lora_rows, (0, 0, 1, 0)))


class LearnedHead(nn.Linear, LearnedRows):
    """A head of its own some of whose rows are learnt."""

    def __init__(self, head: nn.Linear, rows: Sequence[int]) -> None:
        super().__init__(head.in_features, head.out_features, bias=False, device="meta")
        self._learn(head.weight, rows)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.whole())


def learn_rows(model: nn.Module, rows: Sequence[int], *, head: bool = True) -> None:
    """Learns these rows of a Qwen2VL's table, and with `head` those of a head of its own; in place."""
    model.decoder.embed = LearnedTable(model.decoder.embed, rows)
    if head and model.head is not None:
        model.head = LearnedHead(model.head, rows)


def learned_rows(model: nn.Module) -> list[LearnedRows]:
    """The model's table and head, those of which rows are learnt."""
    return [module for module in model.modules() if isinstance(module, LearnedRows)]
