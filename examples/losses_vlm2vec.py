"""VLM2Vec's SimpleContrastiveLoss and DistributedContrastiveLoss, computed by info_nce.

python examples/losses_vlm2vec.py               # seconds on a CPU

Replaces the two classes of the same names in VLM2Vec's src/loss.py: same constructors, same calls.
Numerics: VLM2Vec multiplies and divides by the temperature in the vectors' dtype, and in bfloat16
that costs percents of the gradient; here logits are float32. The distributed loss makes only this
process's rows (VLM2Vec: all rows on every process), yet has its value (scale_loss: times the number
of processes) and its gradient, so DistributedDataParallel's mean is the global loss's gradient.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from umer1_kernels import info_nce


class SimpleContrastiveLoss:
    """loss(x, y, target=None): y holds len(y) / len(x) targets per query, the positive first."""

    def __init__(self, temperature: float = 0.02):
        self.temperature = temperature

    def __call__(
        self, x: Tensor, y: Tensor, target: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        return self._loss(x, y, target, reduction)

    def _loss(self, x, y, target, reduction, group=None) -> Tensor:
        if target is None:
            target = torch.arange(len(x), device=x.device) * (len(y) // len(x))
        return info_nce(
            x, y, scale=1 / self.temperature, labels=target, directions=("q2t",),
            reduction=reduction, group=group,
        )  # fmt: skip


class DistributedContrastiveLoss(SimpleContrastiveLoss):
    """The same over the batches of all processes; every process brings equally many rows."""

    def __init__(self, n_target: int = 0, scale_loss: bool = True, temperature: float = 0.02):
        super().__init__(temperature)
        self.world_size = dist.get_world_size()
        self.scale_loss = scale_loss

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        loss = self._loss(x, y, None, "mean", group=dist.group.WORLD)
        # info_nce's gradient is that of all processes' losses: VLM2Vec's scaled one
        gradient = loss if self.scale_loss else loss / self.world_size
        value = loss.detach().clone()
        dist.all_reduce(value)
        if not self.scale_loss:
            value /= self.world_size
        return gradient + (value - gradient.detach())


def eager(x: Tensor, y: Tensor, temperature: float = 0.02) -> Tensor:
    """The loss written out."""
    target = torch.arange(len(x), device=x.device) * (len(y) // len(x))
    return F.cross_entropy(x @ y.T / temperature, target)


def compare(dtype: torch.dtype = torch.float32, queries: int = 48, per_query: int = 3) -> dict:
    """Values, and relative gradient errors against float64, ours and eager."""
    torch.manual_seed(0)
    shared, things = torch.randn(64), torch.randn(queries * per_query, 64)
    # cosines: others 0.4, the positive 0.8
    vectors = [
        F.normalize(shared + side + 0.7 * torch.randn(side.shape), dim=1).to(dtype)
        for side in (things[::per_query], things)
    ]

    def gradients(loss, dtype):
        leaves = [value.to(dtype).requires_grad_() for value in vectors]
        value = loss(*leaves)
        return value, torch.autograd.grad(value, leaves)

    exact, exact_grads = gradients(eager, torch.float64)
    result = {"exact": exact.item()}
    for name, loss in (("ours", SimpleContrastiveLoss()), ("eager", eager)):
        value, grads = gradients(loss, dtype)
        errors = [((g - e).norm() / e.norm()).item() for g, e in zip(grads, exact_grads)]
        result |= {name: value.item(), f"{name} gradient error": max(errors)}
    return result


if __name__ == "__main__":
    for dtype in (torch.float32, torch.bfloat16):
        print(dtype, compare(dtype))
