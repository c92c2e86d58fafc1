"""The losses in a plain PyTorch loop: two towers with info_nce, a language model with its head.

python examples/losses_plain_loop.py            # seconds on a CPU

Replaces  F.cross_entropy(scale * q @ t.T, labels)   by  info_nce(q, t, scale=scale)
and       F.cross_entropy(head(hidden), target)      by  linear_cross_entropy(hidden, head.weight, target).
Numerics: the values are those of the lines replaced, with logits in float32 whatever the inputs
are; neither keeps the matrix of logits for its backward, and the scale is learned as usual.
"""

import torch
import torch.nn.functional as F
from torch import nn

from umer1_kernels import info_nce, linear_cross_entropy


def train_towers(steps: int = 60, pairs: int = 64) -> dict:
    """Two views of the same hidden vector are to find each other; the scale is learned too."""
    torch.manual_seed(0)
    views = [torch.randn(24, 16), torch.randn(24, 16)]
    towers = nn.ModuleList(
        [nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 8)) for _ in views]
    )
    log_scale = nn.Parameter(torch.tensor(2.0))
    optimizer = torch.optim.AdamW([*towers.parameters(), log_scale], lr=1e-2)
    losses = []
    for _ in range(steps):
        things = torch.randn(pairs, 16)
        query, target = (
            F.normalize(tower(things @ view.T + 0.1 * torch.randn(pairs, 24)), dim=1)
            for tower, view in zip(towers, views)
        )
        loss = info_nce(query, target, scale=log_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    hits = (query @ target.T).argmax(1) == torch.arange(pairs)
    return {"first": losses[0], "last": losses[-1], "hit@1": hits.float().mean().item(),
            "scale": log_scale.exp().item()}  # fmt: skip


def train_language_model(steps: int = 60) -> dict:
    """Count on from a random number; the first half of each row is the prompt and not scored."""
    torch.manual_seed(0)
    vocabulary, length = 50, 12
    embedding, body = nn.Embedding(vocabulary, 32), nn.GRU(32, 32, batch_first=True)
    head = nn.Linear(32, vocabulary, bias=False)
    parameters = [*embedding.parameters(), *body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(steps):
        tokens = (torch.randint(vocabulary, (16, 1)) + torch.arange(length)) % vocabulary
        labels = tokens.clone()
        labels[:, : length // 2] = -100
        hidden, _ = body(embedding(tokens))
        # position t predicts t + 1; rows of the prompt never reach the product
        loss = linear_cross_entropy(
            hidden[:, :-1].flatten(0, 1), head.weight, labels[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"first": losses[0], "last": losses[-1]}


def compare() -> dict:
    """Largest difference of value and gradient from the lines replaced, float32."""
    torch.manual_seed(0)
    query, target = (F.normalize(torch.randn(32, 16), dim=1).requires_grad_() for _ in range(2))
    hidden, weight = (
        torch.randn(40, 16, requires_grad=True),
        torch.randn(90, 16, requires_grad=True),
    )
    labels = torch.randint(90, (40,)).masked_fill(torch.rand(40) < 0.5, -100)
    here, logits = torch.arange(32), 20.0 * query @ target.T
    pairs = {
        "info_nce": (info_nce(query, target, scale=20.0),
                     (F.cross_entropy(logits, here) + F.cross_entropy(logits.T, here)) / 2,
                     (query, target)),
        "linear_cross_entropy": (linear_cross_entropy(hidden, weight, labels),
                                 F.cross_entropy(hidden @ weight.T, labels), (hidden, weight)),
    }  # fmt: skip
    differences = {}
    for name, (ours, theirs, inputs) in pairs.items():
        grads = zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))
        values = [(ours - theirs).abs(), *((a - b).abs().max() for a, b in grads)]
        differences[name] = max(value.item() for value in values)
    return differences


if __name__ == "__main__":
    print("two towers:    ", train_towers())
    print("language model:", train_language_model())
    print("largest difference from the lines replaced:", compare())
