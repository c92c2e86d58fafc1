"""Linear layers whose weights are laid out once: inference on the CPU.

    packed = pack_weights(model)       # the weights exist in packed form alone
    packed.describe()                  # what runs packed, or why nothing does
    packed.undo()                      # plain nn.Linear again, the same bits

    with pack_weights(model, keep=True):
        ...                            # a model that is also trained: its parameters stay where they are

`F.linear` looks for the best layout of its weight at every call (bfloat16), or reads the weight once
per few rows (float32); see packed_layouts.py for the layouts. With either, a row's result is the same
bits in every batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from umer1.model.config import ModelConfig
from umer1.model.packed_layouts import fast_bfloat16, layout_for
from umer1.model.qwen2_vl import Qwen2VL

log = logging.getLogger("umer1")
_DTYPES = (torch.float32, torch.bfloat16)
# parameters from which reading them is what a decode step waits for
_LARGE = 50_000_000


def pack_weights(model: Qwen2VL, *, keep: bool = False, vision: bool = True) -> PackedWeights:
    """Pack the Linear layers of a model in place, its head included.

    A tied head gets a packed copy beside the embedding table, which stays as it is. Under autograd
    a packed layer raises an error.

    Args:
        keep: leave the plain weights in memory, for a model that is trained in between: `undo`
            then gives back the very parameters. False frees them, layer by layer.
        vision: pack the vision tower too.
    """
    return PackedWeights(model, keep, vision)


class PackedWeights:
    """What `pack_weights` did to a model. `obstacle`: why nothing was packed, None if it was."""

    def __init__(self, model: Qwen2VL, keep: bool, vision: bool) -> None:
        self.model, self.keep, self.vision = model, keep, vision
        self.obstacle = obstacle(model)
        self._packed: list[tuple[nn.Module, str]] = []
        if self.obstacle is None:
            self._pack()
            log.info("%s", self.describe())
        else:
            log.warning("%s", self.describe())

    def undo(self) -> None:
        """Plain `nn.Linear` again: the same modules, the same bits. Twice is once."""
        for parent, name in self._packed:
            setattr(parent, name, getattr(parent, name).unpacked())
        self._packed = []
        self.model.packed_head = None

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Plain weights inside the block, to read or to write them; packed again after it."""
        self.undo()
        try:
            yield
        finally:
            if self.obstacle is None:
                self._pack()

    def describe(self) -> str:
        """One line."""
        if self.obstacle is not None:
            return f"weights are not packed, F.linear runs: {self.obstacle}"
        if not self._packed:
            return "weights are plain again, F.linear runs"
        layers = [getattr(parent, name) for parent, name in self._packed]
        size = sum(layer.nbytes for layer in layers)
        head = self.model.packed_head
        copy = "" if head is None else f", and a copy of the tied head ({head.nbytes / 1e6:.0f} MB)"
        return (
            f"{layers[0].layout} weights: {len(layers)} Linear layers "
            f"({size / 1e6:.0f} MB, {layers[0].dtype})"
            f"{copy}; plain weights {'kept' if self.keep else 'freed'}"
        )

    def __enter__(self) -> PackedWeights:
        return self

    def __exit__(self, *error) -> None:
        self.undo()

    @torch.no_grad()
    def _pack(self) -> None:
        for parent, name, linear in _linear_layers(self.model, self.vision):
            setattr(parent, name, PackedLinear(linear, keep=self.keep))
            self._packed.append((parent, name))
        if self.model.head is None:
            table = self.model.head_weight
            rows, width = table.shape
            head = nn.Linear(width, rows, bias=False, device="meta")
            head.weight = nn.Parameter(table.detach(), requires_grad=False)
            self.model.packed_head = TiedHead(head, keep=True)


class PackedLinear(nn.Module):
    """A Linear layer for inference, [T, in] -> [T, out], whose weight only its layout can read."""

    def __init__(self, linear: nn.Linear, *, keep: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        self.bias = linear.bias
        self._plain = (linear,)  # in a tuple: not a submodule
        self._weight = layout_for(self.dtype)(linear.weight.detach())
        if not keep:
            linear.weight.data = linear.weight.new_empty(0)

    def forward(self, rows: Tensor) -> Tensor:
        return self._product(rows, self.dtype)

    def float32(self, rows: Tensor) -> Tensor:
        """The same in float32, not rounded to the weight's dtype before where the layout can."""
        return self._product(rows, torch.float32)

    def _product(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        if rows.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "packed weights have no gradient: undo() the packing before training"
            )
        return self._weight.product(rows, self.bias, dtype)

    def unpacked(self) -> nn.Linear:
        """The layer it was made from, with its weight."""
        (linear,) = self._plain
        if linear.weight.numel() == 0:
            linear.weight.data = self._weight.plain()
        return linear

    @property
    def layout(self) -> str:
        """Name of the weight's layout."""
        return self._weight.name

    @property
    def nbytes(self) -> int:
        return self.in_features * self.out_features * self.dtype.itemsize

    @property
    def weight(self) -> Tensor:
        raise RuntimeError("this layer's weight is packed: undo() the packing to read or write it")

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.dtype}, {self.layout}"

    def _apply(self, function, recurse: bool = True):
        raise RuntimeError("packed weights cannot be moved or converted: undo() the packing first")

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self._weight.plain()


class TiedHead(PackedLinear):
    """A copy: the state dict has the weight as the embedding table."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        pass


def obstacle(model: Qwen2VL) -> str | None:
    """Why this model's weights cannot be packed, or None."""
    weight = model.decoder.norm.weight
    if weight.device.type != "cpu":
        return f"the model is on {weight.device}"
    if weight.dtype not in _DTYPES:
        return f"there are layouts for float32 and bfloat16, not {weight.dtype}"
    return layout_for(weight.dtype).obstacle(weight.dtype)


def inference_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """What a model computes in where nobody says: see Embedder.load."""
    if device.type == "cuda":
        return torch.bfloat16
    if device.type != "cpu" or config.dtype == "float32" or not fast_bfloat16():
        return torch.float32
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in Qwen2VL(config).parameters())
    return torch.bfloat16 if size > _LARGE else torch.float32


def _linear_layers(model: Qwen2VL, vision: bool) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, attribute, layer), the decoder's first.

    The patch embedding stays plain: it is small, and its weight says what dtype the tower has.
    """
    owners: list[nn.Module] = [*model.decoder.layers, model]
    if vision:
        owners += [*model.vision.blocks, model.vision.merger]
    return [
        (owner, name, child)
        for owner in owners
        for name, child in owner.named_children()
        if isinstance(child, nn.Linear)
    ]
