"""packed_linear: a few rows through a Linear layer whose weight was laid out once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.case import OURS, Case, Expected, Problem, Traffic, Variant
from umer1.model.packed_layouts import OneDNN
from umer1_kernels.inference import BF16_COMPILED
from umer1_kernels.packed_linear import pack_linear, packed_linear

BEYOND_CACHE = 256 << 20  # bytes of weights that the calls of a measurement go round


@dataclass(frozen=True, kw_only=True)
class PackedLinearCase(Case):
    """[B, K] x [N, K]; every call takes the next of several weights, as the layers of a model do."""

    suite = "packed_linear"
    compilable = False  # which weight is next is not in the tensors
    rows: int
    columns: int
    dimension: int

    def sizes(self):
        return {"B": self.rows, "N": self.columns, "K": self.dimension}

    def small(self):
        return replace(self, rows=2, columns=96, dimension=64)

    def build(self, device):
        generator = torch.Generator().manual_seed(0)
        size = 2 * self.columns * self.dimension
        count = 2 if size < 1 << 16 else max(2, -(-BEYOND_CACHE // size))
        shape = self.columns, self.dimension
        weights = [torch.randn(shape, generator=generator).to(self.dtype) for _ in range(count)]
        rows = torch.randn(self.rows, self.dimension, generator=generator).to(self.dtype)
        return Problem({"rows": rows, "weights": _Turn(weights)})

    def variants(self, device):
        return [
            Variant(OURS, OURS, lambda rows, weights: weights.panels(rows, self.columns)),
            Variant("onednn-packed", "eager", lambda rows, weights: weights.onednn(rows),
                    "its packed layout, which torch's compiler uses"),
            Variant("linear", "eager", lambda rows, weights: weights.plain(rows), "F.linear"),
        ]  # fmt: skip

    def truth(self, problem):
        weight = problem.inputs["weights"].weights[0]
        return {
            "output": Expected(None, problem.inputs["rows"].double() @ weight.double().T),
        }

    def traffic(self, problem):
        return Traffic(2 * self.columns * self.dimension, torch.device("cpu"))

    def explain(self, problem):
        return "panels of 64 outputs, float32 sums"


class _Turn:
    """Weights that take turns in each form, the first one first; a form is made when it is wanted."""

    def __init__(self, weights: list[Tensor]):
        self.weights = weights
        self._forms: dict[str, list] = {}
        self._calls: dict[str, int] = {}

    def panels(self, rows: Tensor, columns: int) -> Tensor:
        return packed_linear(rows, self._take("panels", pack_linear), columns)

    def onednn(self, rows: Tensor) -> Tensor:
        return self._take("onednn", OneDNN).product(rows, None, rows.dtype)

    def plain(self, rows: Tensor) -> Tensor:
        return F.linear(rows, self._take("plain", lambda weight: weight))

    def _take(self, form: str, make) -> object:
        if form not in self._forms:
            self._forms[form] = [make(weight) for weight in self.weights]
        call = self._calls[form] = self._calls.get(form, -1) + 1
        return self._forms[form][call % len(self.weights)]


def cases(device: str, quick: bool) -> list[Case]:
    if device != "cpu" or not BF16_COMPILED:
        return []
    layers = {"small": (2048, 512)} if quick else {
        "qkv": (2048, 1536), "gate-up": (17920, 1536), "down": (1536, 8960), "head": (151_936, 1536),
    }  # fmt: skip
    return [
        PackedLinearCase(name=f"{name}-b{rows}-bf16", dtype=torch.bfloat16, rows=rows,
                         columns=columns, dimension=dimension)
        for name, (columns, dimension) in layers.items()
        for rows in ((2,) if quick else (1, 4, 16, 64))
    ]  # fmt: skip
