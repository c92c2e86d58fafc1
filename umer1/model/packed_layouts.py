"""How the weight of a packed layer lies in memory, and what multiplies it.

Panels: bfloat16 on CPUs with AVX512-BF16, by umer1_kernels.packed_linear: a decode step reads its
weights as fast as memory gives them. oneDNN: float32, and bfloat16 on CPUs with AMX, whose tiles are
faster for many rows; the operators are private to torch's compiler, so they are tried before they are
trusted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from umer1_kernels.inference import BF16_COMPILED
from umer1_kernels.packed_linear import pack_linear, packed_linear, unpack_linear

# the number of rows oneDNN's layout is made for; it serves one row and hundreds
_ROWS = 16
# from here on it sums every row in the same order (seen with torch 2.15; with 2.11 wide weights need 16)
_ALIKE = 2 if torch.__version__ >= (2, 15) else 16


class Panels:
    """Of umer1_kernels.packed_linear."""

    name = "panel-packed"

    def __init__(self, weight: Tensor) -> None:
        self.columns, self.dimension = weight.shape
        self._packed = pack_linear(weight)

    def product(self, rows: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        return packed_linear(rows, self._packed, self.columns, bias, out_dtype=dtype)

    def plain(self) -> Tensor:
        return unpack_linear(self._packed, self.columns, self.dimension)

    @staticmethod
    def obstacle(dtype: torch.dtype) -> str | None:
        """Why this layout cannot be used, or None."""
        return None


class OneDNN:
    """oneDNN multiplies a single row (older ones: few rows) by another kernel, which sums in another
    order: a single row is multiplied as two, as fast."""

    name = "oneDNN-packed"

    def __init__(self, weight: Tensor) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)

    def product(self, rows: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        count = len(rows)
        if 0 < count < _ALIKE:
            rows = torch.cat([rows, rows[:1].expand(_ALIKE - count, -1)])
        product = torch.ops.mkldnn._linear_pointwise(rows, self._packed, bias, "none", [], "")
        return product[:count].to(dtype)

    def plain(self) -> Tensor:
        return self._packed.to_dense()

    @staticmethod
    def obstacle(dtype: torch.dtype) -> str | None:
        """As of Panels: packs, multiplies and unpacks a small weight."""
        if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
            return "torch has no oneDNN here, or it is switched off"
        if dtype == torch.bfloat16 and not fast_bfloat16():
            return "this CPU has no bfloat16 products"
        weight, rows = torch.eye(32, dtype=dtype) * 2, torch.eye(32, dtype=dtype)
        try:
            packed = OneDNN(weight)
            right = torch.equal(packed.product(rows, None, dtype), weight)
            right &= torch.equal(packed.plain(), weight)
        except (AttributeError, RuntimeError, TypeError) as error:
            return f"torch {torch.__version__}: {str(error).splitlines()[0]}"
        return None if right else f"torch {torch.__version__} multiplies packed weights wrongly"


def layout_for(dtype: torch.dtype) -> type[Panels] | type[OneDNN]:
    """The layout of this dtype's weights on this CPU; its `obstacle` says whether it can be used."""
    if dtype == torch.bfloat16 and BF16_COMPILED and not has_amx():
        return Panels
    return OneDNN


def has_amx() -> bool:
    """Whether this CPU multiplies tiles of bfloat16 and torch's oneDNN uses them."""
    try:
        return bool(torch.cpu._is_amx_tile_supported())
    except AttributeError:
        return False


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively and torch's oneDNN knows it."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
