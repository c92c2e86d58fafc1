"""The engine over transformers' own model: slow, right, any version from 4.57 to 5.23, any device.

    engine = HuggingFaceEngine.from_checkpoint("zhibinlan/UME-R1-2B", SpecialTokens(151657, 151645))
    for finished in engine.submit(prompts, Sampling(max_new_tokens=256)): ...

`generate()` runs as it is. A hook before the decoder gives it our M-RoPE positions, which no version
computes alike; a hook after its final norm keeps the states of the step; a logits processor, called
between the two, takes the vectors and chooses every token as the native engine does. Nothing else of
a step is kept. Every sample is a row of its own: prompts and images are computed again for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umer1.engine.hf_inputs import model_inputs
from umer1.engine.requests import Finished, Prompt, Rollout, Sampling, SpecialTokens, prompt_seed
from umer1.hub import SMALL_FILES, WEIGHTS, local_directory
from umer1.model.key_names import canonical_key
from umer1.model.rope_index import rope_index
from umer1_kernels import sample_tokens

ROWS = 8  # rows of one generate(): a batch lasts as long as its longest row


class HuggingFaceEngine:
    """`Engine` over a Qwen2VLForConditionalGeneration.

    Generation settings stored with the checkpoint (a top_k of 1, a repetition penalty) are not
    used: `Sampling` has them all.

    Args:
        model: it belongs to the engine from here on.
        rows: of one generate().
    """

    def __init__(self, model: nn.Module, special: SpecialTokens, *, rows: int = ROWS):
        from transformers import GenerationConfig

        if rows < 1:
            raise ValueError(f"rows: got {rows}, wants at least 1")
        self.model, self.special, self.rows = model.eval(), special, rows
        model.generation_config = GenerationConfig()
        self.version = 0
        self._awake, self._running = True, 0

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        special: SpecialTokens,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        rows: int = ROWS,
    ) -> HuggingFaceEngine:
        """From a Hugging Face directory or hub id, safetensors only."""
        from transformers import Qwen2VLForConditionalGeneration

        directory = local_directory(path, SMALL_FILES + WEIGHTS)
        model = Qwen2VLForConditionalGeneration.from_pretrained(
            directory, dtype=dtype, use_safetensors=True
        )
        return cls(model.to(device), special, rows=rows)

    def submit(
        self, prompts: Iterable[Prompt], sampling: Sampling, *, samples: int = 1
    ) -> Iterator[Finished]:
        """See `Engine.submit`; rows finish a batch at a time."""
        if samples < 0:
            raise ValueError(f"samples: got {samples}, wants 0 or more")
        if not self._awake:
            raise RuntimeError("the engine sleeps: wake() it first")
        return self._run(prompts, sampling, samples)

    def longest_prompt(self, new_tokens: int) -> None:
        """See `Engine.longest_prompt`: memory is taken as it is needed."""
        return None

    @torch.no_grad()
    def load(self, named: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `Engine.load`; ValueError for a name or shape that the model does not have."""
        self._require_idle("load")
        own = {canonical_key(name): tensor for name, tensor in self.model.named_parameters()}
        tied = "lm_head.weight" not in own
        for name, tensor in named:
            key = canonical_key(name)
            if key is None or (tied and key == "lm_head.weight"):
                continue
            if key not in own or own[key].shape != tensor.shape:
                wanted = f"shape {tuple(own[key].shape)}" if key in own else "no such weight"
                raise ValueError(f"{name} {tuple(tensor.shape)}: the model has {wanted}")
            own[key].copy_(tensor)
        self.version = version

    def sleep(self) -> None:
        """See `Engine.sleep`: keys and values live no longer than a generate() anyway."""
        self._require_idle("sleep")
        self._awake = False

    def wake(self) -> None:
        self._awake = True

    def _require_idle(self, what: str) -> None:
        if self._running:
            raise RuntimeError(f"{what}: {self._running} submissions have not finished")

    def _run(self, prompts, sampling: Sampling, samples: int) -> Iterator[Finished]:
        rows = (
            _Row(place, number, prompt, prompt_seed(prompt, sampling, number))
            for place, prompt in enumerate(prompts)
            for number in (range(samples) if samples else (-1,))
        )
        self._running += 1
        try:
            while batch := list(islice(rows, self.rows)):
                _Batch(self, batch, sampling).generate()
                for row in batch:
                    yield Finished(row.place, row.sample, row.rollout(self.version), row.disc)
        finally:
            self._running -= 1


class _Row:
    """One sample while it is written; `sample` -1: only its disc vector is wanted."""

    def __init__(self, place: int, sample: int, prompt: Prompt, seed: int):
        self.place, self.sample, self.prompt, self.seed = place, sample, prompt, seed
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.think = 0  # tokens of </think> at the end of `tokens`; all of them: thinking is over
        self.disc: Tensor | None = None
        self.vector: Tensor | None = None
        self.hit = False
        self.finish = ""

    def rollout(self, version: int) -> Rollout | None:
        if self.sample < 0:
            return None
        return Rollout(self.tokens, self.logprobs, self.vector, self.hit, self.finish, version)


class _Batch:
    """One generate(): what its hooks see and decide."""

    def __init__(self, engine: HuggingFaceEngine, rows: list[_Row], sampling: Sampling):
        self.rows, self.sampling = rows, sampling
        self.model, self.special = engine.model, engine.special
        self.device = next(self.model.parameters()).device
        sequences = [row.prompt.sequence for row in rows]
        merge = self.model.config.vision_config.spatial_merge_size
        self.length = max(map(len, sequences))
        positions, following = [], []
        for sequence in sequences:
            places, after = rope_index(sequence.media_mask, sequence.grid_thw, merge)
            positions.append(F.pad(places, (self.length - len(sequence), 0)))
            following.append(after)
        self.prompt_positions = torch.stack(positions, dim=1).to(self.device)
        self.next_position = torch.tensor(following, device=self.device)
        self.inputs = model_inputs(self.model, sequences, pad_id=engine.special.eos_id)
        self.steps = 0
        self.states: Tensor | None = None  # [B, tokens of this step, H]

    @torch.no_grad()
    def generate(self) -> None:
        from transformers import GenerationConfig

        decoder = getattr(self.model.model, "language_model", self.model.model)
        hooks = (
            decoder.register_forward_pre_hook(self._give_positions, with_kwargs=True),
            decoder.norm.register_forward_hook(self._keep_states),
        )
        settings = GenerationConfig(
            # one more than written: the step that reads a <gen_emb> in the last place
            max_new_tokens=self.sampling.max_new_tokens + 1,
            do_sample=False,
            use_cache=True,
            pad_token_id=self.special.eos_id,
        )
        try:
            self.model.generate(
                **self.inputs,
                generation_config=settings,
                logits_processor=[self._choose],
                stopping_criteria=[self._finished],
            )
        finally:
            for hook in hooks:
                hook.remove()

    def _give_positions(self, module, args, kwargs):
        """Before the decoder: int64 [3, B, S]; after the prompt the three axes are equal."""
        length = kwargs["inputs_embeds"].shape[1]
        if length != (self.length if self.steps == 0 else 1):
            raise RuntimeError(
                f"generate() read {length} tokens in step {self.steps}; it must read the whole "
                "prompt and then one token at a time"
            )
        positions = self.prompt_positions
        if self.steps:
            places = self.next_position + (self.steps - 1)
            positions = places[None, :, None].expand(3, -1, 1)
        self.steps += 1
        return args, {**kwargs, "position_ids": positions}

    def _keep_states(self, module, args, output: Tensor) -> None:
        self.states = output
        if self.steps > 1:
            return
        for row, states in zip(self.rows, output):
            if row.prompt.disc_position is not None:
                padding = self.length - len(row.prompt.sequence)
                row.disc = _normalised(states[padding + row.prompt.disc_position])

    def _choose(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits processor, float32 [B, V]: the token to take has the only finite score."""
        states = self.states[:, -1]
        going = []
        for place, row in enumerate(self.rows):
            if row.sample < 0:
                row.finish = "disc"
            elif not row.finish:
                self._read(row, states[place])
            if not row.finish:
                going.append(place)
        chosen = torch.full((len(self.rows),), self.special.eos_id, device=scores.device)
        if going:
            tokens, logprobs = self._sample(scores[going], [self.rows[place] for place in going])
            chosen[going] = tokens
            for place, token, logprob in zip(going, tokens.tolist(), logprobs.tolist()):
                self._write(self.rows[place], token, logprob, states[place])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _sample(self, scores: Tensor, rows: list[_Row]) -> tuple[Tensor, Tensor]:
        def each(values: list[int]) -> Tensor:
            return torch.tensor(values, device=scores.device)

        return sample_tokens(
            scores,
            # 64 bits without a sign
            each([row.seed - (row.seed >> 63 << 64) for row in rows]),
            each([len(row.tokens) for row in rows]),
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            forced=each([self._forced(row) for row in rows]),
        )

    def _forced(self, row: _Row) -> int:
        """The next token of `</think>` where the thinking has taken its tokens, else -1."""
        budget, ends = self.sampling.max_think_tokens, self.special.think_end
        if budget is None or len(row.tokens) < budget or row.think == len(ends):
            return -1
        return ends[row.think]

    def _read(self, row: _Row, state: Tensor) -> None:
        """The step has read the row's last token: is it a generated `<gen_emb>`?"""
        if not row.tokens or row.tokens[-1] != self.special.gen_id:
            return
        row.vector, row.hit = _normalised(state), True
        if self.sampling.stop == "first":
            row.finish = "gen_emb"
        elif len(row.tokens) == self.sampling.max_new_tokens:
            row.finish = "length"

    def _write(self, row: _Row, token: int, logprob: float, state: Tensor) -> None:
        row.tokens.append(token)
        row.logprobs.append(logprob)
        row.think = _thinking(row.think, token, self.special.think_end)
        full = len(row.tokens) == self.sampling.max_new_tokens and token != self.special.gen_id
        if token == self.special.eos_id:
            row.finish = "gen_emb" if row.hit else "eos"
        elif full:
            row.finish = "length"
        if row.finish and not row.hit:
            row.vector = _normalised(state)

    def _finished(self, input_ids: Tensor, scores, **_) -> Tensor:
        """The stopping criterion, bool [B]."""
        return torch.tensor([bool(row.finish) for row in self.rows], device=input_ids.device)


def _thinking(seen: int, token: int, ends: tuple[int, ...]) -> int:
    """`_Row.think` after `token`. The tag's last token may merge with what follows (">" and a line
    break): after all but the last, any token ends the thinking."""
    if not ends or seen == len(ends):
        return seen
    if token == ends[seen]:
        return seen + 1
    if len(ends) > 1 and seen == len(ends) - 1:
        return len(ends)
    return int(token == ends[0])


def _normalised(state: Tensor) -> Tensor:
    return F.normalize(state.float(), dim=-1)
