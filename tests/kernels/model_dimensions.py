"""The losses at the hidden sizes of real models, a float64 reference beside each."""

import torch
import torch.nn.functional as F

import umer1_kernels as kernels

DIMENSIONS = [8, 896, 1152, 1536, 3584]
LOSSES = ["info_nce", "linear_cross_entropy", "grpo_loss", "entropy"]
# relative Frobenius error of every gradient
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-3}


def gradient_error(name: str, dimension: int, dtype: torch.dtype, backend: str) -> float:
    """The largest over the loss's gradients, against float64 on the same inputs."""
    rows, others = 37, 75
    base = torch.randn(dimension)
    spread = 0.5 * dimension**0.5
    left = F.normalize(base + spread * torch.randn(rows, dimension), dim=1)
    right = F.normalize(base + spread * torch.randn(others, dimension), dim=1)
    if name != "info_nce":
        left, right = 4 * left, right * dimension**0.5 / 4
    ids, mask = torch.randint(0, others, (rows,)), torch.arange(rows) % 3 > 0
    advantage, old = torch.randn(rows), torch.randn(rows) - 4.0

    def loss(x, y, backend):
        if name == "info_nce":
            return kernels.info_nce(x, y, backend=backend)
        if name == "linear_cross_entropy":
            target = torch.where(mask, ids, -100)
            return kernels.linear_cross_entropy(x, y, target, backend=backend)
        if name == "grpo_loss":
            return kernels.grpo_loss(
                x, y, ids, advantage, mask=mask, old_logprob=old, ref_logprob=old, backend=backend
            ).loss
        _, entropy = kernels.linear_logprob(
            x, y, ids, mask=mask, return_entropy=True, backend=backend
        )
        return entropy.sum()

    mine = [side.to(dtype).requires_grad_() for side in (left, right)]
    exact = [side.detach().double().requires_grad_() for side in mine]
    got = torch.autograd.grad(loss(*mine, backend=backend), mine)
    truth = torch.autograd.grad(loss(*exact, backend="reference"), exact)
    return max(((g.double() - t).norm() / t.norm()).item() for g, t in zip(got, truth))
