"""sentence-transformers' in-batch negatives losses (6.2), computed by info_nce.

    from umer1.integrations.sentence_transformers_losses import InfoNCELoss

    SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=InfoNCELoss(model, scale=50.0))

InfoNCELoss replaces MultipleNegativesRankingLoss, CachedInfoNCELoss its cached form; both take the
same arguments (no hardness weighting) and train any model of sentence-transformers.
Numerics: the same values and gradients. Logits are float32 also inside bfloat16 autocast, where
sentence-transformers rounds the cosines first. The cached loss makes its loss stage in one call
instead of a loop over mini-batches that each go through all candidates; the re-embedding, which
bounds the memory, stays sentence-transformers' own.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim, dot_score
from torch import Tensor

from umer1_kernels import info_nce

DIRECTIONS = {
    "query_to_doc": "q2t",
    "doc_to_query": "t2q",
    "query_to_query": "q2q",
    "doc_to_doc": "t2t",
}


class InfoNCELoss(MultipleNegativesRankingLoss):
    """MultipleNegativesRankingLoss without its matrices of similarities."""

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor) -> Tensor:
        return _loss(self, embeddings)


class CachedInfoNCELoss(CachedMultipleNegativesRankingLoss):
    """CachedMultipleNegativesRankingLoss with its loss stage in one call."""

    def calculate_loss(self, reps, labels=None, *, with_backward: bool = False) -> Tensor:
        loss = _loss(self, [torch.cat(parts) for parts in reps])
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


def _loss(settings, embeddings: list[Tensor]) -> Tensor:
    query, *documents = embeddings
    if settings.hardness_mode is not None:
        raise ValueError(f"hardness_mode is {settings.hardness_mode!r}; it must be None here")
    if "doc_to_doc" in settings.directions and len(documents) > 1:
        # there, a query's own negatives are no candidates of its positive; here they would be
        raise ValueError("doc_to_doc takes pairs (anchor, positive) here, without negatives")
    target = torch.cat(documents)
    if settings.similarity_fct is cos_sim:
        query, target = F.normalize(query, dim=1), F.normalize(target, dim=1)
    elif settings.similarity_fct is not dot_score:
        raise ValueError("similarity_fct must be cos_sim or dot_score")
    distributed = settings.gather_across_devices and dist.is_initialized()
    joint = settings.partition_mode == "joint"
    options = {
        "scale": settings.scale,
        "directions": tuple(DIRECTIONS[name] for name in settings.directions),
        "partition": settings.partition_mode,
        "group": dist.group.WORLD if distributed else None,
    }
    if joint and "doc_to_query" in settings.directions:
        # sentence-transformers has the positive in this softmax twice, info_nce once:
        # log((2 p + n) / p) = softplus(log((p + n) / p))
        return F.softplus(info_nce(query, target, reduction="none", **options)).mean()
    return info_nce(query, target, **options)
