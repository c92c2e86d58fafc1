"""The contrastive loss of SFT and its options, on vectors that are already made.

Legend: U sequences of a batch, N pairs, M hard negatives, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import umer1_kernels as kernels
from umer1.training.collate import SFTBatch
from umer1.training.settings import SFTConfig
from umer1_kernels.distributed import gather_values


class ContrastiveLoss(NamedTuple):
    """Scalars; `total` carries the gradient, the others none. Unweighted terms at full dimension."""

    total: Tensor
    gen: Tensor
    disc: Tensor
    align: Tensor
    gen_hit: Tensor  # share of queries whose own target is the nearest of all processes' targets
    disc_hit: Tensor


@dataclass(slots=True)
class Contrast:
    """L = NCE(gen_q, gen_p) + NCE(disc_q, disc_p), symmetric InfoNCE, over the pairs of all processes.

    Each process gets the loss of its own pairs; their mean is the global loss.

    Attributes:
        scale: of the cosines, where it is not learned.
        align_weight: of the cross terms gen-disc, which make one space of the two; 0: none.
        mask_duplicates: pairs of equal targets (or equal `pos_id`) are no negatives of each other.
        matryoshka: dimension -> weight of the same loss on the vectors' first numbers, normalised again.
        discriminative: False leaves NCE(gen_q, gen_p) alone.
        group: the process group; None in one process.
    """

    scale: float = 50.0
    align_weight: float = 0.0
    mask_duplicates: bool = False
    matryoshka: dict[int, float] = field(default_factory=dict)
    group: object = None
    discriminative: bool = True

    @classmethod
    def of(cls, config: SFTConfig, group=None) -> Contrast:
        """The options a config asks for."""
        return cls(
            config.scale, config.align_weight, config.mask_duplicates, config.matryoshka, group,
            config.discriminative,
        )  # fmt: skip

    def __call__(
        self, gen: Tensor | None, disc: Tensor, batch: SFTBatch, scale: Tensor | None = None
    ) -> ContrastiveLoss:
        """gen, disc: [U, H], normalised, the rows that `batch` numbers. gen None: the disc term alone."""
        pairs = [None if each is None else _sides(each, batch) for each in (gen, disc)]
        scale = self.scale if scale is None else scale
        parts = self._terms(*pairs, batch, scale)
        total = parts[0]
        for size, weight in self.matryoshka.items():
            prefixes = [
                pair and tuple(F.normalize(side[:, :size], dim=1) for side in pair)
                for pair in pairs
            ]
            total = total + weight * self._terms(*prefixes, batch, scale)[0]
        hits = [disc.new_zeros(()) if pair is None else self._hit(*pair, batch) for pair in pairs]
        return ContrastiveLoss(total, *(part.detach() for part in parts[1:]), *hits)

    def _terms(self, gen, disc, batch: SFTBatch, scale) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query_ids = target_ids = None
        if self.mask_duplicates:
            query_ids = batch.pair_ids
            target_ids = torch.cat([batch.pair_ids, batch.negative_ids])
        # with hard negatives there are more targets than queries: query i's own is still target i
        same = dict(scale=scale, query_ids=query_ids, target_ids=target_ids, group=self.group)
        if gen is None:
            loss = kernels.info_nce(*disc, **same)
            zero = loss.new_zeros(())
            return loss, zero, loss, zero
        if not self.discriminative:
            loss = kernels.info_nce(*gen, **same)
            zero = loss.new_zeros(())
            # a gradient of zero for the disc vectors: whoever asks for theirs gets it
            return loss + 0.0 * sum(side.sum() for side in disc), loss, zero, zero
        return kernels.dual_info_nce(gen, disc, align=self.align_weight, **same)[:4]

    @torch.no_grad()
    def _hit(self, query: Tensor, target: Tensor, batch: SFTBatch) -> Tensor:
        """Equal targets are equally right."""
        ids = torch.cat([batch.pair_ids, batch.negative_ids])
        every_target, every_id = (gather_values(each, self.group) for each in (target.float(), ids))
        best = (query.float() @ every_target.T).argmax(1)
        return (every_id[best] == batch.pair_ids).float().mean()


def _sides(vectors: Tensor, batch: SFTBatch) -> tuple[Tensor, Tensor]:
    """Queries [N, H]; targets and then hard negatives [N + M, H]."""
    rows = torch.cat([batch.target_rows, batch.negative_rows])
    return vectors.index_select(0, batch.query_rows), vectors.index_select(0, rows)
