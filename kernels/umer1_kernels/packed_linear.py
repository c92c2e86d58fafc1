"""A Linear layer's product with a weight laid out once: bfloat16 on CPUs with AVX512-BF16.

    packed = pack_linear(layer.weight)                      # [panels, pairs, 64, 2]
    rows = packed_linear(rows, packed, layer.out_features, layer.bias)

The product of a few bfloat16 rows is the reading of its weight, which `F.linear` and oneDNN's packed
layout do more slowly than memory allows (`python -m bench --suite packed_linear`). Here a panel of 64
outputs lies as the products need it, and one pass over memory is all there is to do; for many rows the
products are as fast as oneDNN's. Sums are float32, over the inputs in order: a row gets the same bits
alone and among others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels import checks
from umer1_kernels.inference import BF16_COMPILED

PANEL = 64  # outputs side by side: csrc/cpu/bf16_product.h

if BF16_COMPILED:
    from umer1_kernels.backends.cpu.operators import operators


def packed_linear(
    rows: Tensor,
    packed: Tensor,
    columns: int,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """rows · weightᵀ + bias.

    Args:
        rows: bfloat16 [T, K], without gradient.
        packed: the weight [N, K] as `pack_linear` lays it out.
        columns: N.
        bias: bfloat16 [N].
        out_dtype: torch.bfloat16, or torch.float32 for the sums as they are.

    Returns:
        [T, N].

    Raises:
        RuntimeError: this CPU or this build has no such product, or a tensor does not fit.
    """
    if not BF16_COMPILED:
        raise RuntimeError("packed_linear needs the compiled extension and AVX512-BF16")
    checks.check_choice("out_dtype", out_dtype, (torch.bfloat16, torch.float32))
    return operators.packed_linear(rows, packed, bias, columns, out_dtype == torch.float32)


@torch.no_grad()
def pack_linear(weight: Tensor) -> Tensor:
    """[N, K] -> [panels, pairs, 64, 2]: for each pair of inputs, the pairs of 64 outputs side by side.

    Zeros fill the last panel and an odd input's pair.
    """
    columns, dimension = weight.shape
    panels, pairs = -(-columns // PANEL), -(-dimension // 2)
    if (columns, dimension) != (panels * PANEL, pairs * 2):
        whole = weight.new_zeros(panels * PANEL, pairs * 2)
        whole[:columns, :dimension] = weight
        weight = whole
    return weight.view(panels, PANEL, pairs, 2).transpose(1, 2).contiguous()


def unpack_linear(packed: Tensor, columns: int, dimension: int) -> Tensor:
    """The weight [N, K] that `pack_linear` was given."""
    return packed.transpose(1, 2).flatten(2).flatten(0, 1)[:columns, :dimension].contiguous()
