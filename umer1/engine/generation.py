"""Plain continuous batching: every prompt is prefilled once, its samples fork from its cache, and a row leaves the
batch as soon as its vector is read.

The generative vector is the final hidden state of the step whose input is a *generated* `<gen_emb>`. One row of
hidden states per slot is all that is ever kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from umer1.engine.sampler import Sampling, row_seed, sample
from umer1.model.attention import DecodeAttention, KVCache, PrefillAttention
from umer1.model.qwen2_vl import Qwen2VL
from umer1.model.sequence import Sequence, pack

PREFILL_TOKENS = 16384  # most prompt tokens in one prefill: bounds its activations


@dataclass(slots=True)
class Prompt:
    """One prompt to continue. `disc_position`: where to read the discriminative vector (None: not wanted).
    `number` names the request for seeding: the same number and seed give the same samples in any batch."""

    sequence: Sequence
    number: int
    disc_position: int | None = None


@dataclass(slots=True)
class Rollout:
    """One continuation.

    Attributes:
        tokens: generated ids, `<gen_emb>` and a final end-of-turn included where they were written.
        logprobs: of each token under the untruncated softmax at the sampling temperature.
        vector: float32 [H], L2-normalised. Without a generated `<gen_emb>` it is the state of this row's own last
            input, and `hit` is False.
        finish: "gen_emb" (ended at it, or later by end-of-turn with stop="eos"), "eos" (ended without one), "length".
    """

    tokens: list[int]
    logprobs: list[float]
    vector: Tensor
    hit: bool
    finish: str


@dataclass(slots=True)
class Generated:
    """Result for one prompt: `disc` float32 [H] L2-normalised (None if not asked for) and its rollouts in order."""

    disc: Tensor | None = None
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(slots=True)
class _Row:
    prompt: int
    sample: int
    seed: int
    length: int  # tokens in the cache
    position: int  # M-RoPE position of the next input
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    vector: Tensor | None = None
    hit: bool = False


@torch.no_grad()
def generate(
    model: Qwen2VL,
    prompts: list[Prompt],
    sampling: Sampling,
    *,
    gen_id: int,
    eos_id: int,
    samples: int = 1,
    slots: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Continue every prompt `samples` times.

    Args:
        slots: rows decoded together; raised to `samples` where smaller.
        progress: called with (rollouts finished, tokens written) as they come.

    Returns:
        one `Generated` per prompt, in order.
    """
    if samples < 1:
        raise ValueError(f"samples: got {samples}, wants at least 1")
    if not prompts:
        return []
    return _Generation(
        model, prompts, sampling, gen_id, eos_id, samples, max(slots, samples), progress
    ).run()


class _Generation:
    def __init__(self, model, prompts, sampling, gen_id, eos_id, samples, slots, progress):
        self.model, self.prompts, self.sampling = model, prompts, sampling
        self.gen_id, self.eos_id, self.samples, self.progress = gen_id, eos_id, samples, progress
        self.slots = min(slots, len(prompts) * samples)
        self.device = next(model.parameters()).device
        longest = max(len(prompt.sequence.input_ids) for prompt in prompts)
        # one place more than tokens written: the step that reads a last-token <gen_emb> always runs
        self.cache = KVCache(
            model.config,
            self.slots,
            longest + sampling.max_new_tokens + 1,
            dtype=model.dtype,
            device=self.device,
        )
        self.waiting = deque(range(len(prompts)))
        self.rows: list[
            _Row
        ] = []  # row i lives in slot i: the active slots are always the first ones
        self.results = [Generated(rollouts=[None] * samples) for _ in prompts]

    def run(self) -> list[Generated]:
        while self.waiting or self.rows:
            free = self.slots - len(self.rows)
            if (
                self.waiting
                and free >= self.samples
                and (free * 4 >= self.slots or free >= len(self.waiting) * self.samples)
            ):
                self._admit(free)
            if self.rows:
                self._step()
        return self.results

    def _admit(self, free: int) -> None:
        """Prefill as many waiting prompts as fit, fork their samples, sample each row's first token."""
        chosen, tokens = [], 0
        while self.waiting and (len(chosen) + 1) * self.samples <= free:
            length = len(self.prompts[self.waiting[0]].sequence.input_ids)
            if chosen and tokens + length > PREFILL_TOKENS:
                break
            tokens += length
            chosen.append(self.waiting.popleft())
        packed = pack(
            [self.prompts[index].sequence for index in chosen],
            self.model.config.vision.spatial_merge_size,
        ).to(self.device)
        first = len(self.rows)
        heads = [first + number * self.samples for number in range(len(chosen))]
        hidden = self.model(
            packed, PrefillAttention(packed.lengths, packed.cu_seqlens, self.cache, heads)
        )
        ends = packed.cu_seqlens[1:].long() - 1
        starts = packed.cu_seqlens[:-1].tolist()
        for index, start in zip(chosen, starts):
            place = self.prompts[index].disc_position
            if place is not None:
                self.results[index].disc = _normalise(hidden[start + place])
        for number, index in enumerate(chosen):
            if self.samples > 1:
                forks = range(heads[number] + 1, heads[number] + self.samples)
                self.cache.copy(heads[number], list(forks), packed.lengths[number])
            self.rows += [
                _Row(
                    index,
                    copy,
                    row_seed(self.sampling.seed, self.prompts[index].number, copy),
                    packed.lengths[number],
                    int(packed.next_position[number]),
                )
                for copy in range(self.samples)
            ]
        last = hidden[ends].repeat_interleave(self.samples, 0)
        self._retire(self._sample(range(first, len(self.rows)), last))

    def _step(self) -> None:
        """One token for every active row: read it in, take the vectors, sample the next, let finished rows go."""
        inputs = torch.tensor([row.tokens[-1] for row in self.rows], device=self.device)
        positions = torch.tensor([row.position for row in self.rows], device=self.device)
        lengths = torch.tensor([row.length for row in self.rows])
        slots = list(range(len(self.rows)))
        attend = DecodeAttention(self.cache, slots, lengths, extent=int(lengths.max()) + 1)
        hidden = self.model.decode(inputs, positions, attend)
        ended, going = [], []
        for index, row in enumerate(self.rows):
            row.length += 1
            row.position += 1
            if row.tokens[-1] == self.gen_id:
                row.vector, row.hit = _normalise(hidden[index]), True
                if self.sampling.stop == "first" or len(row.tokens) == self.sampling.max_new_tokens:
                    ended.append((index, "gen_emb" if self.sampling.stop == "first" else "length"))
                    continue
            going.append(index)
        if going:
            ended += self._sample(going, hidden[going] if ended else hidden)
        self._retire(ended)

    def _sample(self, indices: Iterable[int], hidden: Tensor) -> list[tuple[int, str]]:
        """Write the next token of the given rows; returns the rows that end with it and why."""
        rows = [self.rows[index] for index in indices]
        tokens, logprobs = sample(
            self.model.logits(hidden),
            self.sampling,
            [row.seed for row in rows],
            [len(row.tokens) for row in rows],
        )
        ended = []
        for index, row, state, token, logprob in zip(
            indices, rows, hidden, tokens.tolist(), logprobs.tolist()
        ):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            at_limit = len(row.tokens) == self.sampling.max_new_tokens and token != self.gen_id
            if token == self.eos_id or at_limit:
                if not row.hit:
                    row.vector = _normalise(state)
                finish = "length" if token != self.eos_id else "gen_emb" if row.hit else "eos"
                ended.append((index, finish))
        return ended

    def _retire(self, ended: list[tuple[int, str]]) -> None:
        """Store finished rows; the last active row moves into each hole, so active slots stay the first ones."""
        for index, finish in sorted(ended, reverse=True):
            row = self.rows[index]
            self.results[row.prompt].rollouts[row.sample] = Rollout(
                row.tokens, row.logprobs, row.vector, row.hit, finish
            )
            last = self.rows.pop()
            if index < len(self.rows):
                self.cache.copy(len(self.rows), [index], last.length)
                self.rows[index] = last
            if self.progress is not None:
                self.progress(1, len(row.tokens))


def _normalise(state: Tensor) -> Tensor:
    return torch.nn.functional.normalize(state.float(), dim=-1)
