"""GradCache with info_nce_value_and_grad: a large contrastive batch through a tower in chunks.

python examples/losses_grad_cache.py            # seconds on a CPU

Replaces GradCache.cache_step: (1) embed all chunks without a graph, (2) loss and gradients of the
embeddings in one call, (3) run each chunk again and send its gradients back. Memory holds one
chunk's activations, negatives come from the whole batch.
Numerics: the gradients are the uncached ones up to the order of sums; dropout is repeated exactly,
since each chunk runs both times from the same random state. With DistributedDataParallel pass
group=, and wrap all chunks but the last in model.no_sync().
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umer1_kernels import info_nce, info_nce_value_and_grad


def cached_backward(
    towers: tuple[Callable, Callable],
    inputs: tuple[Tensor, Tensor],
    chunk: int,
    *,
    scale: float | Tensor = 50.0,
    **options,
) -> Tensor:
    """Adds the gradients of info_nce(query_tower(inputs[0]), target_tower(inputs[1])) to .grad.

    Args:
        towers, inputs: (query, target); a tower maps [n, ...] to [n, D].
        chunk: rows that go through a tower at once.
        options: of info_nce_value_and_grad (labels, ids, group, ...).

    Returns:
        The loss, without a graph.
    """
    sides = [
        [(tower, part, _RandomState()) for part in values.split(chunk)]
        for tower, values in zip(towers, inputs)
    ]
    with torch.no_grad():
        vectors = [
            torch.cat([state.run(tower, part) for tower, part, state in side]) for side in sides
        ]
    result = info_nce_value_and_grad(*vectors, scale=scale, **options)
    for side, gradient in zip(sides, (result.query, result.target)):
        for (tower, part, state), upstream in zip(side, gradient.split(chunk)):
            state.run(tower, part).backward(upstream)
    if isinstance(scale, Tensor) and scale.requires_grad:
        scale.backward(result.scale)
    return result.loss


class _RandomState:
    """Runs a function twice with the same random numbers."""

    def __init__(self):
        self.cpu = self.cuda = None

    def run(self, function: Callable, value: Tensor) -> Tensor:
        devices = [value.device] if value.is_cuda else []
        if self.cpu is None:
            self.cpu = torch.get_rng_state()
            self.cuda = torch.cuda.get_rng_state(value.device) if devices else None
            return function(value)
        with torch.random.fork_rng(devices):
            torch.set_rng_state(self.cpu)
            if devices:
                torch.cuda.set_rng_state(self.cuda, value.device)
            return function(value)


class Tower(nn.Module):
    """Normalised vectors of toy inputs, with dropout."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(20, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, 16)
        )

    def forward(self, values: Tensor) -> Tensor:
        return F.normalize(self.layers(values), dim=1)


def compare(rows: int = 96, chunk: int = 10, dropout: float = 0.0) -> dict:
    """Largest gradient of the cached step and its largest difference from one whole batch."""
    torch.manual_seed(0)
    towers = Tower(dropout).double(), Tower(dropout).double()
    inputs = [torch.randn(rows, 20, dtype=torch.float64) for _ in range(2)]
    log_scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    leaves = [*towers[0].parameters(), *towers[1].parameters(), log_scale]

    def gradients(step) -> tuple[float, list[Tensor]]:
        for leaf in leaves:
            leaf.grad = None
        torch.manual_seed(1)
        loss = step()
        return loss.item(), [leaf.grad.clone() for leaf in leaves]

    def uncached() -> Tensor:
        # the same chunks, so that dropout draws the same numbers, in one graph
        query, target = (
            torch.cat([tower(part) for part in values.split(chunk)])
            for tower, values in zip(towers, inputs)
        )
        loss = info_nce(query, target, scale=log_scale.exp())
        loss.backward()
        return loss

    expected = gradients(uncached)
    cached = gradients(lambda: cached_backward(towers, inputs, chunk, scale=log_scale.exp()))
    differences = [(a - b).abs().max().item() for a, b in zip(cached[1], expected[1])]
    return {
        "loss": cached[0],
        "loss difference": abs(cached[0] - expected[0]),
        "largest gradient": max(grad.abs().max().item() for grad in expected[1]),
        "gradient difference": max(differences),
    }


if __name__ == "__main__":
    print("96 pairs in chunks of 10:", compare())
    print("with dropout:            ", compare(dropout=0.3))
