"""One decode step: every running row reads its last token and writes the next.

On CUDA the whole step (embedding, layers, final norm, gather, head, sampler, bookkeeping) is one
graph per number of rows, rounded up to a bucket; on the CPU the same code is called as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from umer1.engine.memory import KVMemory, to_device
from umer1.engine.scheduler import Row
from umer1.engine.slots import FINISH, LENGTH, POSITION, PREFIX, RUNNING, TOKEN, Slots
from umer1.model.qwen2_vl import Qwen2VL
from umer1_kernels import append_kv, decode_attention, prefix_groups
from umer1_kernels.backends import choose

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)


class DecodeStep:
    """Call it with the slots of the running rows; see `Slots.advance` for what it gives."""

    def __init__(self, model: Qwen2VL, memory: KVMemory, slots: Slots, graphs: bool = True):
        self.model, self.memory, self.slots = model, memory, slots
        self.device = memory.key.device
        self.graphs = graphs and self.device.type == "cuda"
        self._captured: dict[tuple[int, bool], _Graph] = {}

    def __call__(self, rows: list[int], truncated: bool) -> Tensor:
        """float64 [rows, 4] on the device; with graphs valid until the next call."""
        padded = rows + [self.slots.count] * (self._bucket(len(rows)) - len(rows))
        index = to_device(torch.tensor(padded), self.device)
        if not self.graphs:
            return self._step(index, truncated)[: len(rows)]
        graph, static_rows, told = self._graph(len(padded), truncated)
        static_rows.copy_(index)
        graph.replay()
        return told[: len(rows)]

    def forget_graphs(self) -> None:
        """Something they read has moved."""
        self._captured.clear()

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [B, V], where the device can without rounding them to the weights' dtype first."""
        if hidden.is_cuda and hidden.dtype != torch.float32:
            return torch.mm(hidden, self.model.head_weight.T, out_dtype=torch.float32)
        if len(hidden) == 1:
            # as in _bucket
            return self.model.logits(hidden.repeat(2, 1))[:1]
        return self.model.logits(hidden)

    @torch.no_grad()
    def _step(self, rows: Tensor, truncated: bool) -> Tensor:
        attend = PagedAttention(self.memory, self.slots, rows)
        hidden = self.model.decode(attend.state[:, TOKEN], attend.state[:, POSITION], attend)
        return self.slots.advance(rows, hidden, self.logits, reading=True, truncated=truncated)

    def _bucket(self, count: int) -> int:
        if self.device.type == "cpu":
            # some CPUs sum a product of one row in another order: with two rows a row's result is
            # the same bits in every batch
            return max(count, 2)
        step = BUCKETS[-1]
        return next((size for size in BUCKETS if size >= count), -(-count // step) * step)

    def _graph(self, bucket: int, truncated: bool) -> _Graph:
        kind = bucket, truncated
        if kind not in self._captured:
            # rows without a request: nothing that anybody reads changes
            rows = torch.full((bucket,), self.slots.count, device=self.device)
            here, beside = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                for _ in range(2):  # libraries and kernels set themselves up outside the graph
                    self._step(rows, truncated)
            here.wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            pool = next(iter(self._captured.values())).graph.pool() if self._captured else None
            with torch.cuda.graph(graph, pool=pool):
                told = self._step(rows, truncated)
            self._captured[kind] = _Graph(graph, rows, told)
        return self._captured[kind]


class _Graph(NamedTuple):
    """A recorded step: fill `rows`, replay, read `told`."""

    graph: torch.cuda.CUDAGraph
    rows: Tensor
    told: Tensor


class PagedAttention:
    """Each row's new token attends to its prompt's pages and its own.

    A row that has ended and was not told yet, and a row without a request, write nothing and read
    one key of no meaning.
    """

    def __init__(self, memory: KVMemory, slots: Slots, rows: Tensor):
        self.memory, self.slots = memory, slots
        self.state = slots.state[rows]
        running = self.state[:, FINISH] == RUNNING
        length = self.state[:, LENGTH]
        self._place = torch.where(running, length, -1).int()
        self._length = torch.where(running, length + 1, 1).int()
        self._prefix_of = self.state[:, PREFIX].int()
        self._table = slots.suffix_table[rows]
        self._groups = None

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        slots, backend = self.slots, self.slots.backend
        keys, values = self.memory.key[layer], self.memory.value[layer]
        append_kv(key, value, keys, values, self._table, self._place, backend=backend)
        if layer == 0 and choose("decode_attention", backend, query).backend == "triton":
            group = query.shape[1] // key.shape[1]
            self._groups = prefix_groups(self._prefix_of, len(slots.prefix_table), group)
        return decode_attention(
            query,
            keys,
            values,
            slots.prefix_table,
            slots.prefix_length,
            self._prefix_of,
            self._table,
            self._length,
            groups=self._groups,
            backend=backend,
        )


class Told:
    """What one launch tells about its rows, on its way to the host."""

    def __init__(self, rows: list[Row], told: Tensor):
        self.rows = rows
        self._arrived = None
        if told.is_cuda:
            self._values = torch.empty(told.shape, dtype=told.dtype, pin_memory=True)
            self._values.copy_(told, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = told

    def read(self) -> list[list[float]]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
