"""Requests through the model, step by step: what the scheduler decides is done here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from umer1.engine.decode import DecodeStep, Told
from umer1.engine.memory import KVMemory
from umer1.engine.pages import pages_for
from umer1.engine.prefill import prefill
from umer1.engine.prefixes import FeatureCache
from umer1.engine.requests import Finished, Rollout, Sampling, SpecialTokens
from umer1.engine.scheduler import Request, Row, Scheduler
from umer1.engine.slots import FINISH_NAMES, NewRow, Slots
from umer1.model.qwen2_vl import Qwen2VL


@dataclass(frozen=True, slots=True)
class Context:
    """What is kept with a request: the seeds of its samples, and where its results go. `wrote`
    hears of every (sample, token id)."""

    seeds: list[int]
    sampling: Sampling
    place: int
    deliver: Callable[[Finished], None]
    wrote: Callable[[int, int], None] | None = None


class Stepper:
    """Add requests to `scheduler` and call `step` until it is idle.

    Attributes:
        version: of the weights; rollouts carry it.
        late: the results of a step are read by the next one, so the host never waits for the device
            (CUDA). A row that has ended is then in one more step, in which it does nothing.
    """

    def __init__(
        self,
        model: Qwen2VL,
        special: SpecialTokens,
        scheduler: Scheduler,
        features: FeatureCache,
        graphs: bool,
        backend: str,
    ):
        self.model, self.special, self.scheduler = model, special, scheduler
        self.features, self.graphs, self.backend = features, graphs, backend
        self.version, self.late = 0, model.device.type == "cuda"
        self._decode: DecodeStep | None = None  # with its memory: made when first needed
        self._told: deque[Told] = deque()  # results on their way from the device

    @property
    def idle(self) -> bool:
        # what is still on its way is of rows that have ended
        return self.scheduler.idle

    def step(self) -> None:
        """Admit requests, prefill at most `prefill_tokens`, write one token for every running row,
        deliver what has finished."""
        device = self.model.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self._step()

    def _step(self) -> None:
        scheduler, before = self.scheduler, len(self._told)
        scheduler.admit()
        if pieces := scheduler.pieces():
            # disc vectors alone need no memory
            paged = any(piece.prefix.pages for piece in pieces)
            memory = self.decode().memory if paged else None
            prefill(self.model, memory, pieces, self.features, self.backend)
            scheduler.filled(pieces)
        rows, requests = scheduler.take_ready()
        for request in requests:
            self._deliver(request, -1, None)
        if rows:
            self._start(rows)
        if running := scheduler.started():
            told = self.decode()([row.slot for row in running], _truncated(running))
            self._told.append(Told(running, told))
        launched = len(self._told) > before
        for _ in range(before if self.late and launched else len(self._told)):
            self._settle(self._told.popleft())

    def forget_graphs(self) -> None:
        if self._decode is not None:
            self._decode.forget_graphs()

    def decode(self) -> DecodeStep:
        """The decode step, with its memory and slots."""
        if self._decode is None:
            model, scheduler = self.model, self.scheduler
            config, device = model.config, model.device
            store = KVMemory(config, scheduler.pages.total, model.dtype, device)
            count, width = scheduler.slots, config.hidden_size
            slots = Slots(count, width, self.special, device, self.backend)
            self._decode = DecodeStep(model, store, slots, self.graphs)
        return self._decode

    def _start(self, rows: list[Row]) -> None:
        """The first token of rows whose prompt has been read."""
        step = self.decode()
        slots = step.slots
        widest = max(pages_for(row.request.prefix.tokens) for row in rows)
        if slots.widen(widest, max(len(row.pages) for row in rows)):
            step.forget_graphs()
        index = slots.start([self._new_row(row) for row in rows])
        states = torch.stack([row.request.prefix.result.state for row in rows])
        with torch.no_grad():
            told = slots.advance(
                index, states, step.logits, reading=False, truncated=_truncated(rows)
            )
        self._told.append(Told(rows, told))
        if not self.late:
            self._settle(self._told.pop())

    def _new_row(self, row: Row) -> NewRow:
        context, prefix = row.request.context, row.request.prefix
        return NewRow(
            slot=row.slot,
            pages=row.pages,
            seed=context.seeds[row.sample],
            sampling=context.sampling,
            place=prefix.place,
            prefix_pages=prefix.pages,
            prefix_length=prefix.tokens,
            position=prefix.result.next_position,
        )

    def _settle(self, told: Told) -> None:
        """Note what rows have written; deliver and let go those that have ended."""
        ended = []
        for row, (token, logprob, why, hit) in zip(told.rows, told.read()):
            if row.over:
                continue
            if token >= 0:
                row.tokens.append(int(token))
                row.logprobs.append(logprob)
                if (wrote := row.request.context.wrote) is not None:
                    wrote(row.sample, row.tokens[-1])
            if why:
                ended.append((row, FINISH_NAMES[int(why)], bool(hit)))
        if not ended:
            return
        vectors = self._decode.slots.vectors_of([row.slot for row, *_ in ended])
        for (row, finish, hit), vector in zip(ended, vectors):
            if row.over:  # cancelled by whoever has just got another row's result
                continue
            rollout = Rollout(row.tokens, row.logprobs, vector, hit, finish, self.version)
            self.scheduler.retire(row)
            self._deliver(row.request, row.sample, rollout)

    def _deliver(self, request: Request, sample: int, rollout: Rollout | None) -> None:
        context = request.context
        context.deliver(Finished(context.place, sample, rollout, request.prefix.result.disc))


def _truncated(rows: list[Row]) -> bool:
    settings = (row.request.context.sampling for row in rows)
    return any(sampling.top_k or sampling.top_p < 1 for sampling in settings)
