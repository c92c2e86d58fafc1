"""What a forward of SFT gives, and the advantage of RL.

Legend: U sequences of a part, K kept positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import umer1_kernels as kernels
from umer1.model.qwen2_vl import Qwen2VL
from umer1.training.collate import SFTPart
from umer1.training.parallel import use_head


class SFTOutputs(NamedTuple):
    """Vectors float32 [U, H], normalised; scalars. Without a generative part gen and the scalars are None."""

    gen: Tensor | None
    disc: Tensor
    token_loss: Tensor | None  # weighted sum of the next-token losses, with gradient
    ce_query_sum: Tensor | None  # their plain sums over supervised query and target tokens, without
    ce_target_sum: Tensor | None
    scale: Tensor | None = None  # the learnable scale [1]: see Trainee


@dataclass(slots=True)
class SFTForward:
    """One packed forward: both read-outs and the next-token loss, for `Trainee`.

    Attributes:
        generative: False leaves only the disc vectors (the DUME baseline).
        token_weight: float32 [2], what a supervised token of a query and of a target counts for;
            None: no next-token loss.
    """

    part: SFTPart
    gen_id: int
    disc_id: int
    generative: bool = True
    token_weight: Tensor | None = None

    def __call__(self, model: Qwen2VL) -> SFTOutputs:
        part = self.part
        hidden = model(part.packed, keep=part.keep)
        disc = self._read_out(hidden, self.disc_id, None)
        if not self.generative:
            return SFTOutputs(None, disc, None, None, None)
        gen = self._read_out(hidden, self.gen_id, part.response_start)
        if self.token_weight is None:
            return SFTOutputs(gen, disc, None, None, None)
        counts = torch.stack([part.query_tokens, part.target_tokens])
        token_loss, losses = kernels.linear_cross_entropy(
            hidden,
            use_head(model),
            part.next_tokens,
            row_weight=self.token_weight @ counts,
            reduction="sum",
        )
        return SFTOutputs(gen, disc, token_loss, *(counts.to(losses.dtype) @ losses))

    def _read_out(self, hidden: Tensor, token_id: int, start: Tensor | None) -> Tensor:
        part = self.part
        return kernels.gather_hidden(
            hidden, part.input_ids, token_id, cu_seqlens=part.cu_seqlens, start=start
        ).vectors


def group_advantage(reward: Tensor) -> Tensor:
    """A = (R - mean) / (std + 1e-4) over each pair's own rollouts, unbiased std. reward, result: [N, G] float32."""
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
