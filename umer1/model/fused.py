"""The elementwise steps between the matrix products, with gradients that read and write once.

Autograd of the plain formulas keeps more tensors and joins slices by copying; on the CPU that
costs as much as a third of the matrix products of a small model. Without gradients
umer1_kernels.inference does each step in one pass.

Shapes: T rows, H width, F inner width, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umer1_kernels import inference

_BLOCK_ROWS = 512


def add_rowwise_(hidden: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """hidden + function(hidden), for a function of single rows: [T, H] -> [T, H].

    Without gradients on the CPU block by block, in place, so that the wide activations inside are a
    block's and not those of all rows.
    """
    if torch.is_grad_enabled() or hidden.device.type != "cpu" or len(hidden) <= _BLOCK_ROWS:
        return hidden + function(hidden)
    for block in hidden.chunk(-(-len(hidden) // _BLOCK_ROWS)):
        block += function(block)
    return hidden


class RMSNorm(nn.Module):
    """x / sqrt(mean(x**2) + eps) * weight over the last axis; the mean and the root in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        # under autocast the weight is wider than the states
        if torch.is_grad_enabled() or hidden.dtype != self.weight.dtype:
            return _RMSNorm.apply(hidden, self.weight, self.eps)
        return inference.rms_norm(hidden, self.weight, self.eps)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for rows [gate | up], [T, 2F] -> [T, F]."""
    return _SwiGLU.apply(gate_up) if torch.is_grad_enabled() else inference.swiglu(gate_up)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x)."""
    return F.silu(x * 1.702) / 1.702 if torch.is_grad_enabled() else inference.quick_gelu(x)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        norm = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=wide)
        scale = norm.square_().div_(hidden.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, weight, scale)
        return (hidden * scale).to(hidden.dtype).mul_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        hidden, weight, scale = ctx.saved_tensors
        normal = hidden * scale
        product = normal * grad
        mean = torch.mv(product, weight.to(product.dtype)).div_(hidden.shape[-1]).unsqueeze(1)
        grad_hidden = (grad * weight).to(scale.dtype).addcmul_(normal, mean, value=-1).mul_(scale)
        return grad_hidden.to(hidden.dtype), product.sum(0).to(weight.dtype), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=1)
        torch.mul(F.silu(gate), grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_gate_up
