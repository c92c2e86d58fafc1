"""A batch on its way from a worker: one block of shared memory for all of its tensors.

    parcel = Parcel.of(batch)      # in the worker
    batch = parcel.open()          # in the trainer: tensors that are views of the block

A tensor that is sent alone costs both processes a file descriptor until it is freed: a batch of many
parts, times `prefetch`, would need more of them than `ulimit -n` usually allows.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes; more than any dtype asks of a view's place


@dataclass(slots=True)
class Parcel:
    """Something picklable, its tensors apart.

    Attributes:
        content: the pickled rest; a tensor is its number there.
        tensors: of each tensor its place in the block in bytes, its dtype and its shape.
        block: uint8, in shared memory.
    """

    content: bytes
    tensors: list[tuple[int, torch.dtype, torch.Size]]
    block: Tensor

    @classmethod
    def of(cls, thing: Any) -> Parcel:
        """Tensors on the CPU alone; what is a view of another's memory is copied like the rest."""
        file = io.BytesIO()
        packer = _Packer(file, protocol=pickle.HIGHEST_PROTOCOL)
        packer.dump(thing)
        places, end = [], 0
        for tensor in packer.tensors:
            places.append(end)
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        block = torch.empty(end, dtype=torch.uint8).share_memory_()
        told = [(place, each.dtype, each.shape) for place, each in zip(places, packer.tensors)]
        parcel = cls(file.getvalue(), told, block)
        for number, tensor in enumerate(packer.tensors):
            parcel._tensor(number).copy_(tensor)
        return parcel

    def open(self) -> Any:
        return _Unpacker(io.BytesIO(self.content), self._tensor).load()

    def _tensor(self, number: int) -> Tensor:
        place, dtype, shape = self.tensors[number]
        size = shape.numel() * dtype.itemsize
        return self.block[place : place + size].view(dtype).view(shape)


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, protocol: int):
        super().__init__(file, protocol)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}  # the same tensor twice is one tensor

    def persistent_id(self, thing: Any) -> int | None:
        if type(thing) is not Tensor:
            return None
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self._numbers[id(thing)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensor):
        super().__init__(file)
        self._tensor, self._made = tensor, {}

    def persistent_load(self, number: int) -> Tensor:
        if number not in self._made:
            self._made[number] = self._tensor(number)
        return self._made[number]
