"""A forward without gradients on the CPU: the steps between a model's products, one pass over memory each.

Compiled for float32 and bfloat16, with float32 sums; elsewhere, and where a gradient is wanted, the
plain formulas in torch. What a row gets does not depend on the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from umer1_kernels.extension import extension_status

COMPILED = extension_status().loaded
BF16_COMPILED = COMPILED and torch.ops.umer1_kernels.bf16_softmax_available()  # AVX512-BF16
_DTYPES = (torch.float32, torch.bfloat16)

if COMPILED:
    from umer1_kernels.backends.cpu.operators import operators


def rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x**2) + eps) * weight of rows [T, H]; rounded to their dtype before the weight, as
    transformers does."""
    if _compiled(rows):
        return operators.rms_norm(rows, weight, eps)
    wide = torch.promote_types(rows.dtype, torch.float32)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=wide)
    scale = norm.square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
    return (rows * scale).to(rows.dtype).mul_(weight)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of rows [gate | up], [T, 2F] -> [T, F]."""
    if _compiled(gate_up):
        return operators.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=1)
    return F.silu(gate).mul_(up)


def quick_gelu(numbers: Tensor) -> Tensor:
    """x * sigmoid(1.702 x)."""
    if _compiled(numbers):
        return operators.quick_gelu(numbers)
    return numbers * torch.sigmoid(numbers * 1.702)


def rotate_heads_(fused: Tensor, rotated: int, rotation: Tensor) -> Tensor:
    """Turn the first `rotated` heads of fused [T, heads, D], in place: neighbouring numbers are a
    complex one, multiplied by rotation complex64 [T, 1, D/2]."""
    if _compiled(fused) and fused.is_contiguous() and rotation.dtype == torch.complex64:
        operators.rotate_heads_(fused, rotated, rotation)
        return fused
    turned = fused[:, :rotated]
    wide = turned.to(torch.promote_types(fused.dtype, torch.float32), copy=True)
    pairs = torch.view_as_complex(wide.contiguous().unflatten(-1, (-1, 2)))
    turned.copy_(torch.view_as_real(pairs * rotation).flatten(-2))
    return fused


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *, causal: bool = True
) -> Tensor:
    """softmax(query · keys / sqrt(D)) · values of packed sequences, each to itself.

    Compiled for bfloat16 on CPUs with AVX512-BF16 (`BF16_COMPILED`), where a row's bits depend on
    its own sequence alone.

    Args:
        query: [T, Hq, D]. key, value: [T, Hkv, D], Hq a multiple. Tokens and heads may be strided.
        cu_seqlens: int32 [B + 1]: where each sequence begins, and T.
        causal: a token sees those before it and itself; False: all of its sequence.

    Returns:
        [T, Hq, D] in the query's dtype.
    """
    if BF16_COMPILED and query.dtype == torch.bfloat16 and _compiled(query):
        scale = query.shape[2] ** -0.5
        return operators.packed_attention(query, key, value, cu_seqlens, causal, scale)
    parts = []
    ends = cu_seqlens.tolist()
    for begin, end in zip(ends, ends[1:]):
        own = [rows[begin:end].transpose(0, 1)[None] for rows in (query, key, value)]
        part = F.scaled_dot_product_attention(
            *own, is_causal=causal, enable_gqa=query.shape[1] != key.shape[1]
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


def _compiled(rows: Tensor) -> bool:
    differentiated = rows.requires_grad and torch.is_grad_enabled()
    return COMPILED and rows.device.type == "cpu" and rows.dtype in _DTYPES and not differentiated
