"""What goes into an engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from umer1.model.sequence import Sequence

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What ends a row or its thinking. think_end: the ids of `</think>`, which may be several."""

    gen_id: int
    eos_id: int
    think_end: tuple[int, ...] = ()

    @classmethod
    def of(cls, processor) -> SpecialTokens:
        think_end = tuple(processor.text.encode("</think>"))
        return cls(processor.gen_id, processor.eos_id, think_end)


@dataclass(slots=True)
class Prompt:
    """One prompt to continue.

    Attributes:
        number: names the request for seeding: the same number and seed give the same samples in any
            batch.
        disc_position: where to read the discriminative vector (None: not wanted).
        seed: the request's own; with it neither `number` nor the run's seed matters.
        first_sample: its samples are numbered from here on: several processes can make different ones
            of the same prompt.
    """

    sequence: Sequence
    number: int
    disc_position: int | None = None
    seed: int | None = None
    first_sample: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate.

    Args:
        max_new_tokens: most tokens written per request (the step that reads `<gen_emb>` is not one
            of them).
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probability reaches it (1.0: all).
        top_k: keep the k most likely tokens (0: all).
        seed: base of every row's own seed.
        stop: "first" ends a row at its first generated `<gen_emb>`; "eos" goes on to `<|im_end|>`
            and the last generated `<gen_emb>` gives the vector, as the released evaluation does.
        max_think_tokens: after so many tokens `</think>` is written for the model, unless it has
            written it itself (None: never). Forced tokens count as written and have their true
            log-probabilities.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: str = "first"
    max_think_tokens: int | None = None

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {self.max_new_tokens}, wants at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: got {self.temperature}, wants 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: got {self.top_p}, wants a number in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"top_k: got {self.top_k}, wants 0 (all tokens) or more")
        if self.stop not in ("first", "eos"):
            raise ValueError(f"stop: got {self.stop!r}, wants 'first' or 'eos'")
        if self.max_think_tokens is not None and self.max_think_tokens < 0:
            raise ValueError(
                f"max_think_tokens: got {self.max_think_tokens}, wants 0 or more, or None"
            )


@dataclass(slots=True)
class Rollout:
    """One continuation.

    Attributes:
        tokens: generated ids, `<gen_emb>` and a final end-of-turn included where they were written.
        logprobs: of each token under the untruncated softmax at the sampling temperature.
        vector: float32 [H], L2-normalised. Without a generated `<gen_emb>` it is the state of this
            row's own last input, and `hit` is False.
        finish: "gen_emb" (ended at it, or later by end-of-turn with stop="eos"), "eos" (ended
            without one), "length".
        version: of the weights that wrote it (see Engine.load).
    """

    tokens: list[int]
    logprobs: list[float]
    vector: Tensor
    hit: bool
    finish: str
    version: int = 0


@dataclass(slots=True)
class Finished:
    """What an engine hands out as it comes: sample `sample` of prompt `prompt` (its place in the
    list given). `disc`: float32 [H], L2-normalised, where the prompt asks for it. Without samples a
    prompt comes once, with `sample` -1 and no rollout."""

    prompt: int
    sample: int
    rollout: Rollout | None
    disc: Tensor | None = None


@dataclass(slots=True)
class Generated:
    """All of one prompt: `disc` float32 [H] (None if not asked for) and its rollouts in order."""

    disc: Tensor | None = None
    rollouts: list[Rollout] = field(default_factory=list)


def prompt_seed(prompt: Prompt, sampling: Sampling, sample: int) -> int:
    """Seed of one row, 64 bits: see `row_seed`."""
    sample += prompt.first_sample
    # numpy's integers would overflow
    if prompt.seed is not None:
        return row_seed(int(prompt.seed), 0, sample)
    return row_seed(int(sampling.seed), int(prompt.number), sample)


def row_seed(base: int, request: int, sample: int) -> int:
    """A hash of the run's seed, the request's own number and which of its samples this is."""
    state = _mix(base & _MASK)
    state = _mix(state ^ ((request * 0x9E3779B97F4A7C15) & _MASK))
    return _mix(state ^ ((sample * 0xD1B54A32D192ED03) & _MASK))


def _mix(value: int) -> int:
    """The splitmix64 step."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
