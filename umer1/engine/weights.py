"""New weights in a model that an engine runs, and noticing those that somebody else wrote."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from umer1.model.key_names import canonical_key, checkpoint_tensors
from umer1.model.packed_weights import PackedWeights
from umer1.model.qwen2_vl import Qwen2VL


@torch.no_grad()
def write_weights(
    model: Qwen2VL, packed: PackedWeights | None, named: Iterable[tuple[str, Tensor]]
) -> bool:
    """Write tensors under their checkpoint names; True if one was the vision tower's.

    Packed weights are packed anew, also when `named` is empty: their plain ones may have changed.
    """
    vision = False
    with packed.undone() if packed is not None else nullcontext():
        own = {entry.key: entry for entry in checkpoint_tensors(model)}
        for name, tensor in named:
            key = canonical_key(name)
            if key is None or (key == "lm_head.weight" and model.head is None):
                continue
            if key not in own or own[key].shape != tuple(tensor.shape):
                wanted = f"wants {own[key].shape}" if key in own else "the model has no such weight"
                raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, {wanted}")
            own[key].write(tensor)
            vision |= key.startswith("visual.")
    return vision


class Change(NamedTuple):
    """Since the last look: any weight's values, the vision tower's, or where weights lie."""

    any: bool
    vision: bool
    moved: bool


class WeightWatch:
    """Sees writes to parameters by the counters that autograd keeps (not those through `.data`)."""

    def __init__(self, model: Qwen2VL):
        self.model = model
        self._last = self._counters()

    def look(self) -> Change:
        last, self._last = self._last, self._counters()
        vision, other, places = (old != new for old, new in zip(last, self._last))
        return Change(vision or other or places, vision or places, places)

    def _counters(self) -> tuple[list[int], list[int], list[int]]:
        tower = list(self.model.vision.parameters())
        rest = [*self.model.decoder.parameters()]
        if self.model.head is not None:
            rest += self.model.head.parameters()
        places = [each.data_ptr() for each in (*tower, *rest)]
        return [each._version for each in tower], [each._version for each in rest], places
