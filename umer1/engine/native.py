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

import torch
from torch import Tensor

from umer1.engine import memory
from umer1.engine.pages import PagePool
from umer1.engine.prefixes import FeatureCache, prompt_content
from umer1.engine.requests import Finished, Prompt, Sampling, SpecialTokens, prompt_seed
from umer1.engine.scheduler import Request, Scheduler
from umer1.engine.stepper import Context, Stepper
from umer1.engine.weights import WeightWatch, write_weights
from umer1.model.packed_weights import PackedWeights
from umer1.model.qwen2_vl import Qwen2VL

log = logging.getLogger("umer1")
PREFILL_TOKENS = 8192  # most prompt tokens in one forward: bounds its activations
FEATURE_BYTES = 1 << 30


class NativeEngine:
    """`Engine` with continuous batching, shared prefixes and paged keys and values.

    Args:
        model: used as it is, never copied; `load` writes to it.
        slots: most rows decoded together.
        prefill_tokens: most prompt tokens in one forward; longer prompts are read in pieces.
        patience: steps that requests wait for others to be prefilled with, see Scheduler.
        kv_memory: most bytes of keys and values; default: from what is free on the device.
        feature_memory: bytes of visual features kept for media that come again.
        packed: what packed the model's weights, if anything did: `load` unpacks them to write.
        graphs: record decode steps as CUDA graphs.
        backend: of the kernels for keys, values, attention, sampling and vectors, see umer1_kernels.
    """

    def __init__(
        self,
        model: Qwen2VL,
        special: SpecialTokens,
        *,
        slots: int = 64,
        prefill_tokens: int = PREFILL_TOKENS,
        patience: int = 0,
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
        self.patience = patience
        self.features = FeatureCache(feature_memory)
        self.version = 0
        self._weights = WeightWatch(model)
        self._stepper: Stepper | None = None  # made when first needed, dropped by sleep()
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
                self.stepper.scheduler.check_fits(len(prompt.sequence), new, f"prompt {place}")
        return self._run(prompts, sampling, samples)

    def longest_prompt(self, new_tokens: int) -> int:
        """See `Engine.longest_prompt`."""
        return self.stepper.scheduler.longest_prompt(new_tokens)

    def add(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        samples: int = 1,
        deliver: Callable[[Finished], None] | None = None,
        wrote: Callable[[int, int], None] | None = None,
        place: int = 0,
    ) -> Request:
        """Queue a prompt; the steps to come work on it. See `request` for the arguments."""
        return self.enqueue(
            self.request(
                prompt, sampling, samples=samples, deliver=deliver, wrote=wrote, place=place
            )
        )

    def request(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        samples: int = 1,
        deliver: Callable[[Finished], None] | None = None,
        wrote: Callable[[int, int], None] | None = None,
        place: int = 0,
    ) -> Request:
        """A prompt made ready for `enqueue`: checked, hashed, positions computed. May be called in
        any thread, beside a running `step`.

        Args:
            deliver: gets its results, by default `request.results`, with `place` as their `prompt`.
            wrote: is told of every token as it is read from the device: (sample, token id), in the
                order of the sample's text and before its result.
        """
        if sampling.max_think_tokens is not None and not self.special.think_end:
            raise ValueError(
                "max_think_tokens: this engine was not told the tokens of </think> "
                "(SpecialTokens.think_end)"
            )
        name = f"prompt {place}"
        sequence, disc = prompt.sequence, prompt.disc_position
        if not samples:
            if disc is None:
                raise ValueError(f"{name}: samples is 0 and disc_position None: nothing to compute")
            sequence = sequence.head(disc + 1)
        merge = self.model.config.vision.spatial_merge_size
        key, content = prompt_content(sequence, disc, merge, name)
        new = sampling.max_new_tokens if samples else 0
        self.stepper.scheduler.check_fits(len(sequence), new, name)
        request = Request((key, samples > 0), len(sequence), samples, new, content)
        seeds = [prompt_seed(prompt, sampling, sample) for sample in range(samples)]
        deliver = deliver or request.results.append
        request.context = Context(seeds, sampling, place, deliver, wrote)
        return request

    def enqueue(self, request: Request) -> Request:
        """Let a request of this engine join the queue."""
        if self.idle and (change := self._weights.look()).any:
            self._forget(change.vision, change.moved)
        self.stepper.scheduler.add(request)
        return request

    def cancel(self, request: Request) -> None:
        """Stop a request at any time; what it has delivered stays."""
        self.stepper.scheduler.cancel(request)

    def step(self) -> None:
        """Prefill at most `prefill_tokens`, write one token for every running row, deliver what has
        finished. On CUDA the results of a step are read by the next one."""
        self.stepper.step()

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing runs."""
        return self._stepper is None or self._stepper.idle

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
        if self._stepper is not None:
            self._stepper.version = version

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        self._require_idle("sleep")
        self._stepper = None
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
            self.slots, self._stepper = slots, None

    def describe(self) -> dict[str, object]:
        """The engine's sizes and what is in them now."""
        scheduler = self.stepper.scheduler
        pages = scheduler.pages
        return {
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "weights": "plain" if self.packed is None else self.packed.describe(),
            "version": self.version,
            "slots": self.slots,
            "prefill_tokens": self.prefill_tokens,
            "page_tokens": memory.PAGE_LENGTH,
            "pages": pages.total,
            "pages_free": pages.free,
            "memory": self._memory,
            "prefixes": len(scheduler.prefixes),
            "features": len(self.features),
            "feature_bytes": self.features.bytes,
            "waiting": scheduler.waiting,
            "running": len(scheduler.running),
        }

    @property
    def stepper(self) -> Stepper:
        """Its scheduler and its memory; the pages are counted here."""
        if self._asleep:
            raise RuntimeError("the engine sleeps: wake() it first")
        if self._stepper is None:
            pages, self._memory = memory.page_count(
                self.model, self.kv_memory, self.prefill_tokens, self.slots
            )
            log.info("engine: %d pages of %d tokens: %s", pages, memory.PAGE_LENGTH, self._memory)
            scheduler = Scheduler(PagePool(pages), self.slots, self.prefill_tokens, self.patience)
            self._stepper = Stepper(
                self.model, self.special, scheduler, self.features, self.graphs, self.backend
            )
            self._stepper.version = self.version
        return self._stepper

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
                if not self.idle:
                    self.step()
                while ready:
                    yield ready.popleft()
                mine = {request: None for request in mine if not request.over}
        finally:
            for request in mine:
                self.cancel(request)

    def _has_room(self, samples: int) -> bool:
        scheduler = self.stepper.scheduler
        return (scheduler.waiting_rows if samples else scheduler.waiting) < self.slots

    def _forget(self, vision: bool, moved: bool) -> None:
        """What old weights have computed, and graphs that read them where they no longer are."""
        if vision:
            self.features.clear()
        if self._stepper is not None:
            self._stepper.scheduler.prefixes.drop_unused()
            if moved:
                self._stepper.forget_graphs()

    def _require_idle(self, what: str) -> None:
        if not self.idle:
            scheduler = self.stepper.scheduler
            raise RuntimeError(
                f"{what}: {scheduler.waiting} requests wait and {len(scheduler.running)} rows "
                "run: finish or cancel them first"
            )
