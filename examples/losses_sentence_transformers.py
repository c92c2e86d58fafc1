"""sentence-transformers' in-batch negatives losses, computed by info_nce.

python examples/losses_sentence_transformers.py     # seconds on a CPU; needs sentence-transformers 6

InfoNCELoss and CachedInfoNCELoss go where MultipleNegativesRankingLoss and its cached form do:
SentenceTransformerTrainer(loss=...), with any model. This prints how far their values and gradients
are from the originals'.
"""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn

from umer1.integrations.sentence_transformers_losses import (
    DIRECTIONS,
    CachedInfoNCELoss,
    InfoNCELoss,
)


class BagOfWords(nn.Module):
    """A sentence-transformers module small enough for an example: mean of word vectors."""

    def __init__(self, vocabulary: int = 100, dimension: int = 24):
        super().__init__()
        self.words = nn.Embedding(vocabulary, dimension)

    def forward(self, features: dict) -> dict:
        return features | {"sentence_embedding": self.words(features["input_ids"]).mean(1)}


def compare(columns: int = 3, rows: int = 20, **options) -> dict:
    """Largest differences of loss and gradient from sentence-transformers' own losses."""
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[BagOfWords()], device="cpu")
    features = [
        {"input_ids": torch.randint(100, (rows, 6)), "attention_mask": torch.ones(rows, 6)}
        for _ in range(columns)
    ]

    def value_and_gradient(loss_class, **more) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        loss = loss_class(model, **options, **more)([dict(part) for part in features], None)
        loss.backward()
        return loss.detach(), model[0].words.weight.grad.clone()

    loss, gradient = value_and_gradient(MultipleNegativesRankingLoss)
    result = {"loss": loss.item()}
    for name, ours, more in (
        ("plain", InfoNCELoss, {}),
        ("cached", CachedInfoNCELoss, {"mini_batch_size": 7}),
        ("their cached", CachedMultipleNegativesRankingLoss, {"mini_batch_size": 7}),
    ):
        value, grad = value_and_gradient(ours, **more)
        error = (grad - gradient).abs().max() / gradient.abs().max()
        result[name] = max((value - loss).abs().item(), error.item())
    return result


if __name__ == "__main__":
    print("pairs with a negative:", compare())
    both = ("query_to_doc", "doc_to_query")
    print("symmetric:            ", compare(2, directions=both, partition_mode="per_direction"))
    print("all four, joint:      ", compare(2, directions=tuple(DIRECTIONS)))
