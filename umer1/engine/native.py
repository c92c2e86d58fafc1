"""The engine over our own model: requests join and leave at any step.

engine = NativeEngine(model, SpecialTokens(151657, 151645))
for finished in engine.submit(prompts, Sampling(max_new_tokens=256), samples=8): ...

request = engine.add(prompt, sampling)          # or step by step, as a server does
while not request.over:
    engine.step()
request.results[0].rollout.vector
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from umer1.engine import memory
from umer1.engine.decode import DecodeStep, Told
from umer1.engine.pages import PagePool, pages_for
from umer1.engine.prefill import prefill
from umer1.engine.prefixes import FeatureCache, prompt_content
from umer1.engine.requests import Finished, Prompt, Rollout, Sampling, SpecialTokens, prompt_seed
from umer1.engine.scheduler import Request, Row, Scheduler
from umer1.engine.slots import FINISH_NAMES, NewRow, Slots
from umer1.engine.weights import WeightWatch, write_weights
from umer1.model.qwen2_vl import Qwen2VL

if TYPE_CHECKING:
    from umer1.model.packed_weights import PackedWeights

log = logging.getLogger("umer1")
PREFILL_TOKENS = 8192  # most prompt tokens in one forward: bounds its activations
FEATURE_BYTES = 1 << 30


class NativeEngine:
    """`Engine` with continuous batching, shared prefixes and paged keys and values.

    Args:
        model: used as it is, never copied; `load` writes to it.
        slots: most rows decoded together.
        prefill_tokens: most prompt tokens in one forward; longer prompts are read in pieces.
        kv_memory: most bytes of keys and values; default: from what is free on the device.
        feature_memory: bytes of visual features kept for media that come again.
        packed: what packed the model's weights, if anything did: `load` unpacks them to write.
        graphs: record decode steps as CUDA graphs.
        backend: of the kernels in a decode step, see umer1_kernels.
    """

    def __init__(
        self,
        model: Qwen2VL,
        special: SpecialTokens,
        *,
        slots: int = 64,
        prefill_tokens: int = PREFILL_TOKENS,
        kv_memory: int | None = None,
        feature_memory: int = FEATURE_BYTES,
        packed: PackedWeights | None = None,
        graphs: bool = True,
        backend: str = "auto",
    ):
        for name, value in (("slots", slots), ("prefill_tokens", prefill_tokens)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, wants at least 1")
        self.model, self.special, self.packed = model, special, packed
        self.graphs, self.backend = graphs, backend
        self.slots, self.prefill_tokens, self.kv_memory = slots, prefill_tokens, kv_memory
        self.features = FeatureCache(feature_memory)
        self.version = 0
        self.steps = 0
        self._weights = WeightWatch(model)
        self._scheduler: Scheduler | None = None  # made when first needed, dropped by sleep()
        self._decode: DecodeStep | None = None
        self._told: deque[Told] = deque()  # results on their way from the device
        self._asleep = False

    def submit(
        self, prompts: Iterable[Prompt], sampling: Sampling, *, samples: int = 1
    ) -> Iterator[Finished]:
        """See `Engine.submit`."""
        if samples < 0:
            raise ValueError(f"samples: got {samples}, wants 0 or more")
        if isinstance(prompts, (list, tuple)):
            new = sampling.max_new_tokens if samples else 0
            for place, prompt in enumerate(prompts):
                self.scheduler.check_fits(len(prompt.sequence), new, f"prompt {place}")
        return self._run(prompts, sampling, samples)

    def add(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        samples: int = 1,
        deliver: Callable[[Finished], None] | None = None,
        place: int = 0,
    ) -> Request:
        """Queue a prompt; the steps to come work on it. Its results go to `deliver`, by default to
        `request.results`, with `place` as their `prompt`."""
        if sampling.max_think_tokens is not None and not self.special.think_end:
            raise ValueError(
                "max_think_tokens: this engine was not told the tokens of </think> "
                "(SpecialTokens.think_end)"
            )
        if self.idle and (change := self._weights.look()).any:
            self._forget(change.vision, change.moved)
        name = f"prompt {place}"
        sequence, disc = prompt.sequence, prompt.disc_position
        if not samples:
            if disc is None:
                raise ValueError(f"{name}: samples is 0 and disc_position None: nothing to compute")
            sequence = sequence.head(disc + 1)
        merge = self.model.config.vision.spatial_merge_size
        key, content = prompt_content(sequence, disc, merge, name)
        new = sampling.max_new_tokens if samples else 0
        self.scheduler.check_fits(len(sequence), new, name)
        request = Request((key, samples > 0), len(sequence), samples, new, content)
        seeds = [prompt_seed(prompt, sampling, sample) for sample in range(samples)]
        request.context = _Context(seeds, sampling, place, deliver or request.results.append)
        self.scheduler.add(request)
        return request

    def cancel(self, request: Request) -> None:
        """Stop a request at any time; what it has delivered stays."""
        self.scheduler.cancel(request)

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing runs."""
        return self._scheduler is None or (self._scheduler.idle and not self._told)

    def step(self) -> None:
        """Admit requests, prefill at most `prefill_tokens`, write one token for every running row,
        deliver what has finished. On CUDA the results of this step are read by the next."""
        scheduler, before = self.scheduler, len(self._told)
        self.steps += 1
        scheduler.admit()
        if pieces := scheduler.pieces():
            prefill(self.model, self._step_for().memory, pieces, self.features)
            scheduler.filled(pieces)
        rows, requests = scheduler.take_ready()
        for request in requests:
            self._deliver(request, -1, None)
        if rows:
            self._start(rows)
        if running := scheduler.started():
            told = self._step_for()([row.slot for row in running], _truncated(running))
            self._told.append(Told(running, told))
        on_cuda = self.model.device.type == "cuda"
        for _ in range(before if on_cuda and len(self._told) > before else len(self._told)):
            self._settle(self._told.popleft())

    def load(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `Engine.load`; ValueError for a name or shape that the model does not have. Features
        of media survive if the vision tower is frozen and was not written to."""
        self._require_idle("load")
        vision = write_weights(self.model, self.packed, named)
        # values that were changed through `.data` are not seen: who trains the tower may have
        vision |= any(each.requires_grad for each in self.model.vision.parameters())
        change = self._weights.look()
        self._forget(vision or change.vision, change.moved)
        self.version = version

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        self._require_idle("sleep")
        self._scheduler = self._decode = None
        self.features.clear()
        self._asleep = True
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """See `Engine.wake`; the memory is taken when it is first needed."""
        self._asleep = False

    def resize(self, slots: int) -> None:
        """Another number of rows decoded together. Nothing may be running."""
        if slots < 1:
            raise ValueError(f"slots: got {slots}, wants at least 1")
        self._require_idle("resize")
        if slots != self.slots:
            self.slots, self._scheduler, self._decode = slots, None, None

    def describe(self) -> dict[str, object]:
        """The engine's sizes and what is in them now."""
        pool = self.scheduler.pages
        size = memory.page_bytes(self.model.config, self.model.dtype)
        return {
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "slots": self.slots,
            "prefill_tokens": self.prefill_tokens,
            "page_tokens": memory.PAGE_LENGTH,
            "pages": pool.total,
            "pages_free": pool.free,
            "kv_bytes": pool.total * size,
            "kv_source": self._source,
            "prefixes": len(self.scheduler.prefixes),
            "features": len(self.features),
            "feature_bytes": self.features.bytes,
            "waiting": self.scheduler.waiting,
            "running": len(self.scheduler.running),
            "weights": "plain" if self.packed is None else self.packed.describe(),
            "version": self.version,
        }

    @property
    def scheduler(self) -> Scheduler:
        if self._asleep:
            raise RuntimeError("the engine sleeps: wake() it first")
        if self._scheduler is None:
            pages, self._source = memory.page_count(
                self.model, self.kv_memory, self.prefill_tokens, self.slots
            )
            log.info("engine: %d pages of %d tokens: %s", pages, memory.PAGE_LENGTH, self._source)
            self._scheduler = Scheduler(PagePool(pages), self.slots, self.prefill_tokens)
        return self._scheduler

    def _step_for(self) -> DecodeStep:
        if self._decode is None:
            model, scheduler = self.model, self.scheduler
            store = memory.KVMemory(model.config, scheduler.pages.total, model.dtype, model.device)
            width = model.config.hidden_size
            slots = Slots(self.slots, width, self.special, model.device, self.backend)
            self._decode = DecodeStep(model, store, slots, self.graphs)
        return self._decode

    def _run(self, prompts: Iterable[Prompt], sampling: Sampling, samples: int):
        ready: deque[Finished] = deque()
        mine: dict[Request, None] = {}
        source = enumerate(prompts)
        more = True
        try:
            while more or mine or ready:
                # enough that a step finds what it has room for; not all, for they hold their pixels
                while more and self._has_room(samples):
                    place, prompt = next(source, (0, None))
                    more = prompt is not None
                    if more:
                        request = self.add(
                            prompt, sampling, samples=samples, deliver=ready.append, place=place
                        )
                        mine[request] = None
                if mine:
                    self.step()
                while ready:
                    yield ready.popleft()
                mine = {request: None for request in mine if not request.over}
        finally:
            for request in mine:
                self.cancel(request)

    def _has_room(self, samples: int) -> bool:
        waiting = self.scheduler.waiting_rows if samples else self.scheduler.waiting
        return waiting < self.slots

    def _start(self, rows: list[Row]) -> None:
        """The first token of rows whose prompt has been read."""
        step = self._step_for()
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
        if self.model.device.type != "cuda":
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
            if why:
                ended.append((row, FINISH_NAMES[int(why)], bool(hit)))
        if not ended:
            return
        vectors = self._decode.slots.vectors_of([row.slot for row, *_ in ended])
        for (row, finish, hit), vector in zip(ended, vectors):
            rollout = Rollout(row.tokens, row.logprobs, vector, hit, finish, self.version)
            self._scheduler.retire(row)
            self._deliver(row.request, row.sample, rollout)

    def _deliver(self, request: Request, sample: int, rollout: Rollout | None) -> None:
        context = request.context
        context.deliver(Finished(context.place, sample, rollout, request.prefix.result.disc))

    def _forget(self, vision: bool, moved: bool) -> None:
        """What old weights have computed, and graphs that read them where they no longer are."""
        if self._scheduler is not None:
            self._scheduler.prefixes.drop_unused()
        if vision:
            self.features.clear()
        if self._decode is not None and moved:
            self._decode.forget_graphs()

    def _require_idle(self, what: str) -> None:
        if not self.idle:
            raise RuntimeError(
                f"{what}: {self._scheduler.waiting} requests wait and "
                f"{len(self._scheduler.running)} rows run: finish or cancel them first"
            )


@dataclass(frozen=True, slots=True)
class _Context:
    """What the engine keeps with a request."""

    seeds: list[int]  # of its samples
    sampling: Sampling
    place: int
    deliver: Callable[[Finished], None]


def _truncated(rows: list[Row]) -> bool:
    settings = (row.request.context.sampling for row in rows)
    return any(sampling.top_k or sampling.top_p < 1 for sampling in settings)
